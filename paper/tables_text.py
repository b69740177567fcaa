"""How numbers and tables are written in LaTeX: one format for each kind of number, macros, booktabs tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

MISSING = "--"  # where a study is recorded but there is no such number
NOT_RECORDED = "not recorded"
RATE_WORDS = {1e-4: "Slowest", 1e-3: "Slow", 1e-2: "Fast", 1e-1: "Fastest"}


class Numbers:
    """The macros of numbers.tex: each measured figure that the text cites, under a name."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._lines: list[str] = []

    def heading(self, text: str) -> None:
        """A comment line above the macros that follow."""
        self._lines.append(f"\n% {text}")

    def add(self, name: str, text: object) -> None:
        """One macro; ValueError where LaTeX would not take the name, or it is there already."""
        if not re.fullmatch(r"[A-Z][A-Za-z]+", name):
            raise ValueError(f"macro name {name!r}: allowed: letters, the first a capital")
        if name in self.texts:
            raise ValueError(f"macro {name}: defined twice")
        self.texts[name] = str(text)
        self._lines.append(f"\\newcommand{{\\{name}}}{{{text}}}")

    def file(self) -> str:
        """Content of numbers.tex."""
        return "\n".join(self._lines).strip() + "\n"


def math_text(text: str) -> str:
    """In math mode, wherever it stands."""
    return f"\\ensuremath{{{text}}}"


def number(value: float, form: str = ".2f") -> str:
    """A number in a Python format; a proper minus sign, a dash where there is none."""
    if pd.isna(value):
        return MISSING
    text = format(value, form)
    text = re.sub(r"^-(0(\.0+)?)$", r"\1", text)  # minus nothing
    text = text.replace(",", "{,}").replace("%", "\\%")
    return math_text(text) if text[0] in "+-" or "{,}" in text else text


def power(value: float, digits: int = 1) -> str:
    """A number as mantissa times power of ten, `digits` after the point; near one as it is."""
    if pd.isna(value):
        return MISSING
    if value == 0 or 0.01 <= abs(value) < 1000:
        whole = abs(value) >= (10 ** (digits + 1) if digits else 1)
        return number(value, ".0f" if whole else f".{digits + 1}g")
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    factor = "" if mantissa == "1" else f"{mantissa}\\times"
    return math_text(f"{factor}10^{{{int(exponent)}}}")


def rate(value: float) -> str:
    """A learning rate: ten to a power."""
    return math_text(f"10^{{{round(math.log10(value))}}}")


def share(value: float) -> str:
    """A share as whole per cent."""
    return number(value, ".0%")


def of(count: object, whole: object) -> str:
    """`3 of 48`."""
    return MISSING if pd.isna(count) else f"{count} of {whole}"


def span(values: Iterable[float], form: str = ".0f") -> str:
    """Lowest and highest of the values there are; a dash where there are none."""
    known = [value for value in values if not pd.isna(value)]
    if not known:
        return MISSING
    low, high = number(min(known), form), number(max(known), form)
    if low == high:
        return low
    return f"{low} to {high}" if low.startswith("\\") else f"{low}--{high}"


def power_span(values: Iterable[float], digits: int = 1) -> str:
    """Lowest and highest of the values as powers of ten."""
    known = [value for value in values if not pd.isna(value)]
    low, high = power(min(known), digits), power(max(known), digits)
    return low if low == high else f"{low} to {high}"


def interval(middle: float, low: float, high: float, form: str = "+.2f") -> str:
    """A mean with the ends of its interval."""
    if pd.isna(low):
        return number(middle, form)
    return f"{number(middle, form)} [{number(low, form)}, {number(high, form)}]"


def camel(name: str) -> str:
    """Folder name to the part of a macro name: input_norm to InputNorm."""
    return "".join(part.capitalize() for part in name.replace("td3", "td_three").split("_"))


def code(name: str) -> str:
    """A name of the code, in typewriter letters."""
    return f"\\texttt{{{name.replace('_', chr(92) + '_')}}}"


def listed(names: Sequence[str], nothing: str = "none") -> str:
    """`a, b and c`."""
    if not names:
        return nothing
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tabular(columns: str, header: Sequence[str], rows: Sequence[Sequence[str] | None]) -> str:
    """A booktabs table. Header lines are LaTeX, without the ends of their lines; a row None is a small space."""
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines += [line if line.startswith("\\cmidrule") else line + " \\\\" for line in header]
    lines.append("\\midrule")
    lines += ["\\addlinespace" if cells is None else " & ".join(cells) + " \\\\" for cells in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"
