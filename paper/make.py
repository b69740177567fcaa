"""Makes the paper's figures and tables, the pages' findings and docs/findings.md from the CSV files; trains nothing.

    python paper/make.py [figures|tables|pages|findings] [--check]

Without a word all four are made. What rests on studies that are not recorded is left out, each named in a line.
With --check nothing is written: exit code 1 names the files that are not what would be written (of a picture it checks
that it was drawn from these numbers, not its pixels, which differ between versions of matplotlib). Exit code 2: the
data contradict a sentence of the text (paper/verdicts.py); all is written nevertheless.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from matplotlib.collections import Collection  # noqa: E402
from matplotlib.colors import to_hex, to_rgba_array  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from common.config import OneLineParser  # noqa: E402
from common.recording.results import ResultsError, find_studies  # noqa: E402
from common.recording.store import write_atomically  # noqa: E402
from paper.figures import FIGURES  # noqa: E402
from paper.figures.style import save  # noqa: E402
from paper.load import NotRecorded, Recordings  # noqa: E402
from paper.macros import macros  # noqa: E402
from paper.pages import findings, pages  # noqa: E402
from paper.tables import TABLES  # noqa: E402
from paper.text import latex  # noqa: E402
from paper.verdicts import contradicted  # noqa: E402

PAPER = ROOT / "paper"
MADE = PAPER / "made"
NOTE = "% Written by paper/make.py from the CSV files; do not edit.\n"
PARTS = ("figures", "tables", "pages", "findings")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make from the command line."""
    parser = OneLineParser(
        prog="python paper/make.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("part", nargs="?", choices=PARTS, help="what to make (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is out of date")
    parser.add_argument("--results-dir", default=ROOT / "results", type=Path, metavar="DIR", help="(%(default)s)")
    said = parser.parse_args(arguments)
    wanted = [said.part] if said.part else PARTS
    if not find_studies(said.results_dir):
        raise SystemExit(f"error: {said.results_dir}: holds no studies; needed: <preset>/<experiment>/runs.csv")
    try:
        recorded = Recordings(said.results_dir)
    except ResultsError as problem:
        raise SystemExit(f"error: {problem}") from None
    texts: dict[Path, str] = {}
    if "tables" in wanted:
        texts |= table_files(recorded)
    if "pages" in wanted:
        texts |= pages(recorded)
    if "findings" in wanted:
        texts |= findings(recorded)
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    stale += strangers({path.name for path in texts}, "*.tex") if "tables" in wanted else []
    try:
        if not said.check:
            MADE.mkdir(exist_ok=True)
            write(stale, texts)
        if "figures" in wanted:
            stale += figure_files(recorded, said.check)
    except OSError as problem:
        raise SystemExit(f"error: {problem}") from None
    for line in dict.fromkeys(recorded.absent):
        print(f"left out: {line.replace(f'{ROOT}/', '')}", file=sys.stderr)
    if said.check and stale:
        raise SystemExit(f"out of date: {', '.join(sorted(str(path.relative_to(ROOT)) for path in stale))}")
    if wrong := contradicted(recorded) if "tables" in wanted else []:
        print("the data contradict the text:\n" + "\n".join(f"- {line}" for line in wrong), file=sys.stderr)
        raise SystemExit(2)


def table_files(recorded: Recordings) -> dict[Path, str]:
    """Every table whose data are recorded, and the macros that the text uses."""
    found = {}
    for name, table in TABLES.items():
        try:
            found[MADE / f"{name}.tex"] = NOTE + table(recorded)
        except NotRecorded as missing:
            recorded.absent.append(f"table {name}: {missing}")
    used, known = set(re.findall(r"\\(?:whenrecorded\{)?([A-Z][A-Za-z]+)", source())), macros(recorded)
    lines = [f"\\newcommand{{\\{name}}}{{{latex(text)}}}" for name, text in known.items() if name in used]
    return found | {MADE / "numbers.tex": NOTE + "\n".join(lines) + "\n"}


def source() -> str:
    """The text of the paper, without comments."""
    paths = [PAPER / "main.tex", *sorted((PAPER / "sections").glob("*.tex"))]
    return "\n".join(re.sub(r"(?<!\\)%.*", "", path.read_text()) for path in paths)


def figure_files(recorded: Recordings, check: bool) -> list[Path]:
    """Draw every figure whose data are recorded, or find those that were not drawn from these numbers."""
    stale, made = [], set()
    for name, draw in FIGURES.items():
        try:
            figure = draw(recorded)
        except NotRecorded as missing:
            recorded.absent.append(f"figure {name}: {missing}")
            continue
        made |= {f"{name}.png", f"{name}.pdf"}
        digest, picture = drawn(figure), MADE / f"{name}.png"
        if not (picture.exists() and digest.encode() in picture.read_bytes() and picture.with_suffix(".pdf").exists()):
            stale.append(picture)
            if not check:
                save(figure, MADE, name, digest)
                print(f"written: {picture.relative_to(ROOT)}, .pdf", flush=True)
    unwanted = [*strangers(made, "*.png"), *strangers(made, "*.pdf")]
    if not check:
        write(unwanted, {})
    return stale + unwanted


def drawn(figure: Figure) -> str:
    """A checksum of what a figure, not drawn yet, shows: its size, words, colours, and to five digits its numbers."""
    parts: list[str] = [f"{figure.get_size_inches()}", *(text.get_text() for text in figure.findobj(Text))]
    for artist in figure.findobj(lambda artist: isinstance(artist, Line2D | Collection | Patch)):
        if isinstance(artist, Line2D):
            numbers, colours = artist.get_xydata(), artist.get_color()
        elif isinstance(artist, Collection):
            shapes = (path.vertices for path in artist.get_paths())
            sizes = getattr(artist, "get_sizes", tuple)()
            places = np.ma.filled(artist.get_offsets(), np.nan)
            numbers = np.concatenate([np.ravel(x) for x in (places, sizes, *shapes)])
            colours = np.concatenate([artist.get_facecolor(), artist.get_edgecolor()])
        else:
            numbers = artist.get_path().vertices if artist.get_path() else np.zeros(0)
            colours = artist.get_facecolor()
        parts += map(to_hex, to_rgba_array(colours))
        parts.append(" ".join(f"{value:.5g}" for value in np.ravel(np.asarray(numbers, dtype=float))))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def strangers(names: set[str], pattern: str) -> list[Path]:
    """Files that would not be written."""
    return sorted(path for path in MADE.glob(pattern) if path.name not in names)


def write(paths: Iterable[Path], texts: dict[Path, str]) -> None:
    """Write these files, and remove those that have no text."""
    for path in paths:
        if path in texts:
            write_atomically(path, texts[path].encode())
        else:
            path.unlink()
        print(f"{'written' if path in texts else 'removed'}: {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
