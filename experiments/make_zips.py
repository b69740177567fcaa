"""Build dist/<name>_experiment.zip, which runs without this repository, for the experiments named or for all.

Packed is what is committed (HEAD), never the work tree: a warning names changes that are not packed yet. A zip holds
the experiment's folder, common/ with the commit in common/COMMIT, docs/, requirements.txt and LICENSE. The same commit
gives the same bytes: sorted names, the commit's date, fixed permissions, nothing compressed.

Use it: unzip NAME_experiment.zip; cd NAME_experiment; python run_NAME_experiment.py
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SHARED = ("LICENSE", "common", "docs", "requirements.txt")
SCRIPTS = re.compile(r"^experiments/([^/]+)/run_\1_experiment\.py$", re.MULTILINE)


def git(*words: str) -> bytes:
    """What a git command prints; ends the program with its complaint if it fails."""
    done = subprocess.run(["git", "-c", "core.autocrlf=false", *words], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"error: git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def committed_files() -> dict[str, bytes]:
    """Content by path of all that may be packed."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD", *SHARED, "experiments"))) as archive:
        return {file.name: archive.extractfile(file).read() for file in archive.getmembers() if file.isfile()}


def write_zip(path: Path, files: dict[str, bytes], seconds: int) -> None:
    """Put files, dated `seconds` after 1970, into a folder named like the zip."""
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", time.gmtime(seconds)[:6])
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    os.replace(partial, path)


def main() -> None:
    """Build the zips."""
    parser = argparse.ArgumentParser(
        prog="package_zips.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments (default: all that are committed)")
    asked = parser.parse_args().names
    commit, seconds = git("log", "-1", "--format=%H %ct").decode().split()
    files = committed_files()
    known = SCRIPTS.findall("\n".join(sorted(files)))
    unknown = sorted(set(asked) - set(known))
    if unknown:
        parser.exit(2, f"error: {unknown[0]}: no committed experiment; allowed: {', '.join(known)}\n")
    changed = git("status", "--porcelain", "--", *SHARED, "experiments").decode().splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        print(f"warning: not committed, so not packed: {changed[0][3:]}{more}", file=sys.stderr)
    shared = {name: content for name, content in files.items() if not name.startswith("experiments/")}
    shared["common/COMMIT"] = f"{commit}\n".encode()
    DIST.mkdir(exist_ok=True)
    for name in asked or known:
        folder = f"experiments/{name}/"
        own = {path.removeprefix(folder): content for path, content in files.items() if path.startswith(folder)}
        target = DIST / f"{name}_experiment.zip"
        write_zip(target, {**shared, **own}, int(seconds))
        print(f"{target.relative_to(ROOT)} ({target.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main()
