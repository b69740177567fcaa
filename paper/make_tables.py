"""Writes paper/tables/*.tex: the tables of the paper, and numbers.tex with a macro for each figure that the text cites.

    python paper/make_tables.py [--check]

With --check nothing is written; exit code 1 names the files that do not follow from the CSV files under results/,
benchmarks/results/ and paper/data/. A study that is not recorded, or is still being trained, gives rows and macros
that say so. Exit code 2: the data contradict a sentence of the text (paper/tables_statements.py); nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paper import (  # noqa: E402
    tables_baseline,
    tables_experiments,
    tables_experiments_numbers,
    tables_numbers,
    tables_setup,
    tables_verdicts,
)
from paper.tables_data import Recordings  # noqa: E402
from paper.tables_law import law  # noqa: E402
from paper.tables_statements import contradicted  # noqa: E402
from paper.tables_text import Numbers  # noqa: E402

FOLDER = ROOT / "paper" / "tables"
NOTE = "% Written by paper/make_tables.py from the CSV files; do not edit.\n"


def files(recordings: Recordings) -> dict[Path, str]:
    """Content of every file."""
    macros = Numbers()
    tables_numbers.numbers(recordings, macros)
    tables = law(recordings, macros)
    tables_experiments_numbers.numbers(recordings, macros)
    verdicts = tables_verdicts.all_verdicts(recordings)
    tables_verdicts.numbers(verdicts, macros)
    tables_setup.numbers(macros)
    tables |= tables_baseline.tables(recordings) | tables_experiments.tables(recordings)
    tables |= tables_setup.tables(recordings) | {"verdicts": tables_verdicts.table(verdicts), "numbers": macros.file()}
    return {FOLDER / f"{name}.tex": NOTE + text for name, text in tables.items()}


def main() -> None:
    """Write all files, or check them."""
    recordings = Recordings(ROOT / "results")
    wrong = contradicted(recordings)
    if wrong:
        print("the data contradict the text:\n" + "\n".join(f"- {line}" for line in wrong), file=sys.stderr)
        raise SystemExit(2)
    texts = files(recordings)
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    strangers = sorted(set(FOLDER.glob("*.tex")) - set(texts))
    if "--check" in sys.argv[1:]:
        if stale or strangers:
            raise SystemExit(f"out of date: {', '.join(str(p.relative_to(ROOT)) for p in [*stale, *strangers])}")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(texts[path])
        print(f"written: {path.relative_to(ROOT)}")
    for path in strangers:
        path.unlink()
        print(f"removed: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
