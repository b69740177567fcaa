"""Markdown pages that scripts write or check: tables, the part between two marks, files that must be up to date."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def arguments(text: str, results: Path | None = None) -> argparse.Namespace:
    """The command line of a script that writes pages: --check and, if it has a default, a folder of results."""
    usage = text.partition("\n")[0]
    parser = argparse.ArgumentParser(description=usage, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is out of date")
    if results:
        parser.add_argument("results", nargs="?", type=Path, default=results, help="folder of the studies (results/)")
    return parser.parse_args()


def experiment_names() -> list[str]:
    """Folders of experiments, by name."""
    folders = (ROOT / "experiments").iterdir()
    return sorted(path.name for path in folders if (path / f"run_{path.name}_experiment.py").exists())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def filled(path: Path, begin: str, end: str, text: str) -> str:
    """The page with the part between the marks `begin` and `end` replaced."""
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path}: lacks the marks {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def write_or_check(texts: dict[Path, str], check: bool) -> None:
    """Write the pages that differ; with `check` write none and leave with exit code 1 where one does."""
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    if check and stale:
        raise SystemExit(f"out of date: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")
    for path in stale:
        path.write_text(texts[path])
        print(f"written: {path.relative_to(ROOT)}")
