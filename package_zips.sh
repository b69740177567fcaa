#!/usr/bin/env bash
# Build dist/<name>_experiment.zip for every experiment; see --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec "${PYTHON:-python3}" - "$@" <<'PYTHON'
"""Build dist/<name>_experiment.zip, which runs without this repository, for the experiments named or for all.

Packed is what is committed (HEAD), never the work tree: a warning names changes that are not packed yet. A zip holds
the experiment's folder, common/ with the commit in common/COMMIT, docs/csv_columns.md, requirements.txt and LICENSE. The same commit gives
the same bytes: sorted names, the commit's date, fixed permissions, nothing compressed.

Use it: unzip NAME_experiment.zip; cd NAME_experiment; python run_NAME_experiment.py
"""

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

SHARED = ("LICENSE", "common", "docs/csv_columns.md", "requirements.txt")


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-c", "core.autocrlf=false", *words], capture_output=True)
    if done.returncode:
        sys.exit(f"error: git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def committed_files() -> dict[str, tuple[bytes, bool]]:
    """Path -> content and whether it is executable, of all that may be packed."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD", *SHARED, "experiments"))) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {file.name: (archive.extractfile(file).read(), bool(file.mode & 0o100)) for file in files}


def write_zip(path: Path, files: dict[str, tuple[bytes, bool]], seconds: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, (content, executable) in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", time.gmtime(seconds)[:6])
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, content)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="package_zips.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments (default: all that are committed)")
    asked = parser.parse_args().names
    commit, seconds = git("log", "-1", "--format=%H %ct").decode().split()
    files = committed_files()
    known = re.findall(r"^experiments/([^/]+)/run_\1_experiment\.py$", "\n".join(sorted(files)), re.MULTILINE)
    unknown = sorted(set(asked) - set(known))
    if unknown:
        parser.exit(2, f"error: {unknown[0]}: no committed experiment; allowed: {', '.join(known)}\n")
    changed = git("status", "--porcelain", "--", *SHARED, "experiments").decode().splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        print(f"warning: not committed, so not packed: {changed[0][3:]}{more}", file=sys.stderr)
    shared = {name: file for name, file in files.items() if not name.startswith("experiments/")}
    shared["common/COMMIT"] = (f"{commit}\n".encode(), False)
    Path("dist").mkdir(exist_ok=True)
    for name in asked or known:
        folder = f"experiments/{name}/"
        own = {path.removeprefix(folder): file for path, file in files.items() if path.startswith(folder)}
        target = Path("dist", f"{name}_experiment.zip")
        write_zip(target, {**shared, **own}, int(seconds))
        print(f"{target} ({target.stat().st_size // 1024} KiB)")


main()
PYTHON
