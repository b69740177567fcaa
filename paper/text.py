"""How the paper and the pages write numbers, lists and tables: plain text for Markdown, and that text as LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from common.recording.results import learning_rate_text

MISSING = "–"  # where there is no such number
# What stands in plain text, and in LaTeX.
SIGNS = {
    "∂Q/∂a": r"\dqda{}", "1 − tanh² z": r"\dtanh{}", "abs(z)": r"$|z|$", "≥": r"$\geq$", "≤": r"$\leq$",
    "×": r"$\times$", "%": r"\%", "_": r"\_", "β₁": r"$\beta_1$", "–": "--", "“": "``", "”": "''", "…": r"\dots{}",
    "−": "$-$", "#": r"\#", "&": r"\&", "†": r"\textsuperscript{\dag}",
}  # fmt: skip


def number(value: float, form: str = ".2f") -> str:
    """A number in a Python format with a proper minus sign; a dash where there is none."""
    if pd.isna(value):
        return MISSING
    text = format(value, form)
    return re.sub(r"^-(0(\.0+)?%?)$", r"\1", text).replace("-", "−")  # minus nothing is nothing


def significant(value: float, digits: int = 2) -> str:
    """A number of so many significant digits: `0.58`, `210`, `67,000`, and `1.2e-7` where it is far from one."""
    if pd.isna(value) or value == 0 or not math.isfinite(value):
        return MISSING if pd.isna(value) else number(value, "g")
    rounded = float(f"{value:.{digits - 1}e}")
    if not 1e-3 <= abs(rounded) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return number(rounded, f",.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f")


def share(value: float) -> str:
    """A share as whole per cent."""
    return number(value, ".0%")


def rate(value: float) -> str:
    """A learning rate: `1e−4`."""
    return learning_rate_text(value).replace("-", "−")


def stopping_range(stops: pd.Series) -> str:
    """Range of stopping episodes, median, and apart those above twice it, which one late agent can bring about."""
    stops = stops.dropna()
    late = stops[stops > 2 * stops.median()]
    told = f"{span(stops.drop(late.index))} (median {number(stops.median(), '.0f')}"
    return f"{told}; {of(len(late), len(stops))} only at {span(late)})" if len(late) else f"{told})"


def of(count: float, whole: float) -> str:
    """`3 of 48`."""
    return MISSING if pd.isna(count) else f"{count:.0f} of {whole:.0f}"


def span(values: Iterable[float], form: str | int = ".0f") -> str:
    """Lowest and highest of the values there are; `form` is a format or a number of significant digits."""
    known = [value for value in values if not pd.isna(value)]
    if not known:
        return MISSING
    ends = [significant(x, form) if isinstance(form, int) else number(x, form) for x in (min(known), max(known))]
    if ends[0] == ends[1]:
        return ends[0]
    return " to ".join(ends) if any("−" in end or "+" in end for end in ends) else "–".join(ends)


def interval(middle: float, low: float, high: float, form: str = ".2f") -> str:
    """A mean with the ends of its interval, where it has one."""
    ends = "" if pd.isna(low) else f" [{number(low, form)}, {number(high, form)}]"
    return number(middle, form) + ends


def listed(names: Sequence[object]) -> str:
    """`a, b and c`."""
    texts = [str(name) for name in names]
    return " and ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part) if texts else "none"


def seeds_text(seeds: Iterable[int]) -> str:
    """`42, 43 and 44`, or `42 to 51` where four or more follow one another."""
    known = sorted({int(seed) for seed in seeds})
    if len(known) > 3 and known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]} to {known[-1]}"
    return listed(known)


def latex(text: str) -> str:
    """Plain text as LaTeX: code in back quotes, bold in stars, powers of ten, signs; formulas in $ stay."""
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", text)
    ways = {"`": lambda part: _code(part[1:-1]), "$": str}
    return "".join(ways.get(part[:1], _plain)(part) for part in parts)


def _code(name: str) -> str:
    return rf"\texttt{{{name.replace('_', chr(92) + '_').replace('--', '-{}-')}}}"


def _plain(text: str) -> str:
    def power(found: re.Match[str]) -> str:
        factor = "" if found[2] == "1" else rf"{found[2]}\times "
        return rf"\ensuremath{{{found[1].replace('−', '-')}{factor}10^{{{found[3].replace('−', '-')}}}}}"

    text = text.replace("--", "-{}-")
    text = re.sub(r"(−?)\b(\d+(?:\.\d+)?)e(−?\d+)\b", power, text)
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    text = re.sub(r"\$-\$(\d(?:[\d,.]*\d)?)", r"\\ensuremath{-\1}", text)
    text = re.sub(r"(?<![\w}])\+(\d(?:[\d.]*\d)?)", r"\\ensuremath{+\1}", text)
    text = re.sub(r"(?<=\d),(?=\d{3})", "{,}", text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)


def tabular(columns: str, header: Sequence[str], rows: Sequence[Sequence[str] | None]) -> str:
    """A booktabs table; cells are plain text, header lines LaTeX, a row None is a small space."""
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
    lines += [line if line.startswith(r"\cmidrule") else line + r" \\" for line in header]
    lines.append(r"\midrule")
    lines += [r"\addlinespace" if cells is None else " & ".join(map(latex, cells)) + r" \\" for cells in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
