"""The paper's text: no typed figures, nothing undefined whatever is recorded, all that is made is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paper.figures import FIGURES
from paper.load import Recordings
from paper.macros import macros
from paper.make import PAPER, source, strangers, table_files
from paper.pages import findings, pages
from paper.tables import TABLES
from paper.verdicts import contradicted

TEXTS = [PAPER / "main.tex", *sorted((PAPER / "sections").glob("*.tex"))]
# Digits that are no measured figure; all others that are settings or definitions stand in \\defn{…}.
ALLOWED = (
    r"float(32|64)|TD3|Baselines3",  # names
    r"[_^]\d\b|\\sqrt",  # an index or power: \beta_1, \tanh^2
    r"\b1[-+]\\?[a-zA-Z]|\bt\+1\b",  # of formulas: 1-\tanh^2, t+1
)
UNTYPED = ("cite", "citep", "citet", "ref", "label", "input", "bibliography", "bibliographystyle", "whenrecorded", "lr")
UNTYPED += ("texttt",)
NUMBER_WORD = r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred|thousand|twice|thrice)\b"
OWN = {"Delta"}  # capitals that LaTeX defines


def body(path: Path) -> str:
    """Text of a file without comments, verbatim parts, and what stands before the document."""
    text = re.sub(r"(?<!\\)%.*", "", path.read_text())
    if path.name == "main.tex":
        text = text.partition(r"\begin{document}")[2]
    return re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", text, flags=re.DOTALL)


def argument(text: str, start: int) -> int:
    """Where the argument in braces ends whose text begins at `start`."""
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[start], 0)
        start += 1
    return start


def without(text: str, command: str) -> str:
    """The text with `\\command{…}` taken out, braces inside it matched, an optional argument too."""
    while found := re.search(rf"\\{command}\*?(\[[^]]*\])?\{{", text):
        text = text[: found.start()] + text[argument(text, found.end()) :]
    return text


def bare_figures(text: str) -> list[str]:
    """Digits in the text that are neither a definition nor in one of the allowed contexts."""
    for command in ("defn", *UNTYPED):
        text = without(text, command)
    text = re.sub(r"\\(paperfigure|papertable)\{[^}]*\}", "", text)
    for context in ALLOWED:
        text = re.sub(context, "", text)
    return [text[max(0, found.start() - 20) : found.end() + 20] for found in re.finditer(r"\d+", text)]


def shown(text: str, known: set[str]) -> str:
    """The text as LaTeX takes it with these macros: of \\whenrecorded{Name}{…} the second part or nothing."""
    while found := re.search(r"\\whenrecorded\{(\w+)\}\{", text):
        end = argument(text, found.end())
        text = text[: found.start()] + (text[found.end() : end - 1] if found[1] in known else "") + text[end:]
    return text


def inputs(text: str) -> str:
    """The text with its sections put in."""
    return re.sub(r"\\input\{(sections/\w+)\}", lambda m: body(PAPER / f"{m[1]}.tex"), text)


def document(known: set[str]) -> str:
    return shown(inputs(shown(body(PAPER / "main.tex"), known)), known)


@pytest.fixture(scope="module")
def recorded() -> Recordings:
    return Recordings()


@pytest.fixture(scope="module")
def computed(recorded: Recordings) -> dict[str, str]:
    return macros(recorded)


def test_what_is_made_is_current(recorded: Recordings) -> None:
    """As paper/make.py --check, but for the figures, which .ci/run checks."""
    texts = table_files(recorded) | pages(recorded) | findings(recorded)
    assert [path.name for path, text in texts.items() if not path.exists() or path.read_text() != text] == []
    assert strangers({path.name for path in texts}, "*.tex") == [] and contradicted(recorded) == []


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


def test_macros_are_defined_and_closed(computed: dict[str, str]) -> None:
    """With what is recorded nothing undefined is shown."""
    used = set(re.findall(r"\\([A-Z][A-Za-z]+)", document(set(computed)))) - OWN
    assert used <= set(computed), f"not computed: {sorted(used - set(computed))}"
    every = "".join(body(path) for path in TEXTS)
    unclosed = re.findall(r"\\(?!Delta)[A-Z][A-Za-z]+(?!\{\}|[A-Za-z])", every)
    assert not unclosed, "a macro without {} swallows the space that follows"


def test_only_what_the_text_uses_is_computed(computed: dict[str, str]) -> None:
    assert set(computed) <= set(re.findall(r"\\(?:whenrecorded\{)?([A-Z][A-Za-z]+)", source()))


def test_figures_and_tables_are_made_and_referred_to(recorded: Recordings, computed: dict[str, str]) -> None:
    text = document(set(computed))
    figures, tables = (re.findall(rf"\\paper{what}\{{(\w+)\}}", text) for what in ("figure", "table"))
    assert len(figures) == len(set(figures)) and set(figures) <= set(FIGURES)
    assert {f"fig{number}" for number in range(14)} <= {name.partition("_")[0] for name in FIGURES}
    assert set(re.findall(r"\\papertable\{(\w+)\}", source())) == set(TABLES) and len(tables) == len(set(tables))
    labels = set(re.findall(r"\\label\{([^}]*)\}", text)) | {f"fig:{name}" for name in figures}
    written = {path.stem for path in table_files(recorded)}
    labels |= {f"tab:{name}" for name in tables if name in written}
    refs = set(re.findall(r"\\(?:eq)?ref\{([^}]*)\}", text))
    assert refs <= labels, f"no such label: {sorted(refs - labels)}"


def test_citations_have_entries_and_entries_are_cited() -> None:
    text = "\n".join(body(path) for path in TEXTS)
    cited = {key.strip() for group in re.findall(r"\\cite[pt]?\{([^}]*)\}", text) for key in group.split(",")}
    entries = set(re.findall(r"^@\w+\{(\w+),", (PAPER / "references.bib").read_text(), flags=re.MULTILINE))
    assert cited == entries
