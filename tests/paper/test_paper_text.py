"""The paper's text: no typed figures, nothing undefined, and tables that follow from the result files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paper import make_figures
from paper.figure_data import Recordings

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "paper"
TEXTS = [PAPER / "main.tex", *sorted((PAPER / "sections").glob("*.tex"))]
# Digits that are no measured figure; all others that are settings or definitions stand in \\defn{…}.
ALLOWED = (
    r"float(32|64)|TD3",  # names
    r"[_^]\d\b",  # an index or power: \beta_1, \tanh^2
    r"\b1[-+]\\?[a-zA-Z]|\bt\+1\b",  # of formulas: 1-\tanh^2, t+1
)
UNTYPED = ("cite", "citep", "citet", "ref", "eqref", "label", "input", "bibliography", "bibliographystyle", "url", "lr")
NUMBER_WORD = r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred|thousand|twice|thrice)\b"
RECORDED = Recordings(ROOT / "results", ROOT / "experiments")
KNOWN = {*make_figures.figures(RECORDED)}
FIGURES = KNOWN - {f"fig_{name}" for name in RECORDED.experiments}  # those that every paper has


def body(path: Path) -> str:
    """Text of a file without comments, verbatim parts, and what stands before the document."""
    text = re.sub(r"(?<!\\)%.*", "", path.read_text())
    if path.name == "main.tex":
        text = text.partition(r"\begin{document}")[2]
    return re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", text, flags=re.DOTALL)


def without(text: str, command: str) -> str:
    """The text with `\\command{…}` taken out, braces inside it matched, an optional argument too."""
    while found := re.search(rf"\\{command}\*?(\[[^]]*\])?\{{", text):
        depth, place = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
        text = text[: found.start()] + text[place:]
    return text


def bare_figures(text: str) -> list[str]:
    """Digits in the text that are neither a definition nor in one of the allowed contexts."""
    for command in ("defn", *UNTYPED):
        text = without(text, command)
    text = re.sub(r"\\(paperfigure|papertable)\{[^}]*\}", "", text)
    for context in ALLOWED:
        text = re.sub(context, "", text)
    return [text[max(0, found.start() - 20) : found.end() + 20] for found in re.finditer(r"\d+", text)]


def macros() -> set[str]:
    """Names that tables/numbers.tex defines."""
    return set(re.findall(r"\\newcommand\{\\([A-Za-z]+)\}", (PAPER / "tables" / "numbers.tex").read_text()))


def all_text() -> str:
    return "\n".join(body(path) for path in TEXTS)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_typed_figures(path: Path) -> None:
    assert not bare_figures(body(path))


@pytest.mark.parametrize("typed", ["scores 0.58 there", "in 24 runs", "$-0.39$", "\\defn{50} agents, 3 seeds"])
def test_typed_figures_are_found(typed: str) -> None:
    assert bare_figures(typed)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_counts_in_words(path: Path) -> None:
    """Counts of runs, agents, seeds, pairs or episodes are figures, too, when they are spelled out."""
    counted = r"(runs|agents|pairs|cells|episodes|seeds|steps|times)"
    assert not re.findall(rf"{NUMBER_WORD}( of)?( the)? {counted}\b", body(path))


def test_macros_are_defined_and_closed() -> None:
    """A macro without {} after it would swallow the space that follows."""
    text, known = all_text(), macros()
    used = set(re.findall(r"\\([A-Z][A-Za-z]+)", text)) - {"Delta"}
    assert used <= known, f"not in tables/numbers.tex: {sorted(used - known)}"
    unclosed = re.findall(r"\\(?!Delta)[A-Z][A-Za-z]+(?!\{\}|[A-Za-z])", text)
    assert not unclosed


def test_figures_are_those_that_are_drawn() -> None:
    used = re.findall(r"\\paperfigure\{([^}]*)\}", all_text())
    assert sorted(used) == sorted(set(used)) and FIGURES <= set(used) <= KNOWN
    assert not re.findall(r"\\includegraphics", all_text()), "figures come by \\paperfigure"


def test_figures_are_drawn() -> None:
    """A figure of an experiment without results may be missing: the text then has a frame in its place."""
    drawn = {path.stem for path in (PAPER / "figures").glob("*.pdf")}
    if not drawn:
        pytest.skip("paper/figures has no PDF files; paper/make_figures.py draws them")
    studies = {path.parent for path in (ROOT / "results").glob("*/*/runs.csv")}
    recorded = {f"fig_{study.name}" for study in studies if not (study / ".lock.json").exists()} - {"fig_baseline"}
    wanted = {*FIGURES, *recorded}
    assert wanted <= drawn, f"not drawn: {sorted(wanted - drawn)}"


def test_tables_are_written_and_shown() -> None:
    used = set(re.findall(r"\\papertable\{([^}]*)\}", all_text()))
    written = {path.stem for path in (PAPER / "tables").glob("*.tex")} - {"numbers"}
    assert used == written


def test_citations_have_entries_and_entries_are_cited() -> None:
    cited = {key.strip() for group in re.findall(r"\\cite[pt]?\{([^}]*)\}", all_text()) for key in group.split(",")}
    entries = set(re.findall(r"^@\w+\{(\w+),", (PAPER / "references.bib").read_text(), flags=re.MULTILINE))
    assert cited == entries


def test_references_have_labels() -> None:
    text = all_text()
    labels = set(re.findall(r"\\label\{([^}]*)\}", text))
    labels |= {f"fig:{name}" for name in re.findall(r"\\paperfigure\{([^}]*)\}", text)}
    labels |= {f"tab:{name}" for name in re.findall(r"\\papertable\{([^}]*)\}", text)}
    assert set(re.findall(r"\\(?:eq)?ref\{([^}]*)\}", text)) <= labels


def test_tables_follow_from_the_files() -> None:
    command = [sys.executable, str(PAPER / "make_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
