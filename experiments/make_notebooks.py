"""Write the notebook of every experiment, <name>/<name>.ipynb, from the docstring of its run script and its README.

    python experiments/make_notebooks.py            write the notebooks that differ
    python experiments/make_notebooks.py --check    write nothing; exit code 1 and a line each where one differs

All notebooks have the same cells; what differs is the name, the docstring ("Title: hypothesis." and what differs from
the baseline), the links, which follow from the repository's address in pyproject.toml, and the finding: the sentence
that paper/make.py writes into the README, and the picture that shows it. Of the monitor's notebook, which is written by
hand, only the sentence is written here, from docs/monitor.md.
"""

from __future__ import annotations

import argparse
import ast
import json
import tomllib
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
MONITOR = HERE / "monitor" / "saturation_monitor.ipynb"
BRANCH = "main"
GITHUB = "https://github.com/"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

TITLE = """\
# $title

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]($colab)

**Hypothesis.** $hypothesis

$difference

*Runtime → Run all* runs the whole study; it needs no GPU. Whatever interrupts it, run all cells again with the same
options: it goes on from its last checkpoint, one of which is made every five minutes.
"""

GPU = """\
# @title Is there a GPU?
import os
import shutil
import sys
import zipfile
from pathlib import Path

if shutil.which("nvidia-smi"):
    !nvidia-smi
else:
    print("No GPU: the study will run on the CPU; nothing else changes.")
    print("For a GPU: Runtime > Change runtime type > T4 GPU, then run all cells.")
"""

DRIVE = """\
# @title Keep results on Google Drive?
USE_DRIVE = True  # @param {type: "boolean"}
# True: checkpoints and results are copied to Drive while it trains, and after this runtime has died a new one goes on
# from there. Checkpoints take about 1 GB for 16 runs; they are removed at the end and then lie in Drive's trash.
# False: what was not downloaded is gone with the runtime.

try:
    from google.colab import drive, files
except ImportError:  # not on Colab
    drive = files = None

HOME = Path.cwd()
MIRROR = ""
if USE_DRIVE and drive:
    drive.mount(str(HOME / "drive"))
    MIRROR = f'--mirror "{HOME}/drive/MyDrive/$project"'
"""

CODE = """\
# @title Get the code
# From ${name}_experiment.zip if it was uploaded here, from beside this notebook, or from the repository.
NAME = "$name"
SCRIPT = HOME / f"run_{NAME}_experiment.py"
ARCHIVE = HOME / f"{NAME}_experiment.zip"
if ARCHIVE.exists():
    zipfile.ZipFile(ARCHIVE).extractall(HOME)
    SCRIPT = HOME / ARCHIVE.stem / SCRIPT.name
elif not SCRIPT.exists():
    SCRIPT = HOME / "$project" / "experiments" / NAME / SCRIPT.name
    if not SCRIPT.exists():
        !git clone --depth 1 $repository "{HOME}/$project"
print(SCRIPT)
"""

RUN = """\
# @title Run the study, or go on with it
OPTIONS = "--env scaled --seeds 42"  # @param {type: "string"}
# --env scaled, thesis or interior; --seeds 42 43 44 for three seeds; --quick for a small try; --help lists all options.

RESULTS = HOME / "results"
# The progress bar: renewed once a second, and shown where the terminal has no size.
os.environ.update(TQDM_MININTERVAL="1", TQDM_NCOLS="100", TQDM_NROWS="24")
!"{sys.executable}" "{SCRIPT}" {OPTIONS} --results-dir "{RESULTS}" {MIRROR}
if _exit_code:  # noqa: F821
    raise RuntimeError(f"exit code {_exit_code}: the last line above says why and what to do")  # noqa: F821
"""

SHOW = """\
# @title Tables and figures
from IPython.display import Image

sys.path.insert(0, str(next(folder for folder in SCRIPT.parents if (folder / "common").is_dir())))
from common.analysis.summary import study_summary
from common.recording.results import load_study

STUDIES = sorted(path.parent for path in RESULTS.rglob("runs.csv") if path.parent.name == NAME)
for study in STUDIES:
    print(study_summary(load_study(study)))
    for figure in sorted(study.glob("*.png")):
        display(Image(str(figure), width=800))
"""

REPORT = """\
# @title Explore it: a page with the same numbers
# It is one file, report.html beside the CSV files, and opens in any browser, also without a network.
from html import escape

from IPython.display import HTML

for study in STUDIES:
    page = escape((study / "report.html").read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" title="report" style="width: 100%; height: 900px; border: 0"></iframe>'
    display(HTML(f"<div>{frame}</div>"))
"""

DOWNLOAD = """\
# @title Download the results
RESULTS_ARCHIVE = RESULTS / f"{NAME}_results.zip"
with zipfile.ZipFile(RESULTS_ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
    for study in STUDIES:
        for path in sorted([*study.iterdir(), *study.glob("policies/*")]):
            if path.suffix in (".csv", ".json", ".png", ".html", ".pt"):
                archive.write(path, path.relative_to(RESULTS))
if files:
    files.download(str(RESULTS_ARCHIVE))
else:
    print(RESULTS_ARCHIVE)
"""

PICTURE = """\
# @title The finding in one picture
# $look
for study in STUDIES:
    display(Image(str(study / "$picture.png"), width=800))
"""

FINDING = """\
$sentence

(Of the recorded studies; the picture above is of yours. Every number: [README]($readme).)
"""
FOUND = "**In short:** "  # how a page's sentence begins
# The study's figure that shows whether its actors learn, and how to look at it; of the baseline, why they do not.
CURVES = ("learning_curves", "Actors that learn move from the dotted line (random) to the solid one (near-optimal).")
NORMS = ("gradient_norms_over_time", "Actors at the dashed line have no gradient at all; their critic learns on.")

CODE_CELLS = {
    "gpu": GPU, "drive": DRIVE, "code": CODE, "run": RUN, "show": SHOW, "report": REPORT, "download": DOWNLOAD,
    "picture": PICTURE,
}  # fmt: skip


def scripts() -> list[Path]:
    """The run script of every experiment, in order of name."""
    found = sorted(HERE.glob("*/run_*_experiment.py"))
    return [path for path in found if path.name == f"run_{path.parent.name}_experiment.py"]


def repository() -> str:
    """The repository's address."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removesuffix("/")


def colab_link(name: str) -> str:
    """Where Colab opens the notebook of an experiment."""
    path = repository().removeprefix(GITHUB)
    return f"https://colab.research.google.com/github/{path}/blob/{BRANCH}/experiments/{name}/{name}.ipynb"


def sentence(page: Path) -> str:
    """The sentence of a page that paper/make.py writes; SystemExit if there is none."""
    found = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(FOUND)]
    if len(found) != 1:
        raise SystemExit(f"{page}: {len(found)} lines begin with {FOUND!r}; needed: the one that paper/make.py writes")
    return found[0]


def monitor_notebook() -> str:
    """Text of the monitor's notebook, its finding written anew."""
    content = json.loads(MONITOR.read_text(encoding="utf-8"))
    content["cells"][-1]["source"] = sentence(HERE.parent / "docs" / "monitor.md")
    return text_of(content)


def text_of(content: dict) -> str:
    """A notebook as the text of its file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def notebook(script: Path) -> str:
    """Text of the notebook of a run script; SystemExit if its docstring has another shape."""
    name = script.parent.name
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    headline, _, difference = docstring.partition("\n\n")
    title, colon, hypothesis = " ".join(headline.split()).partition(": ")
    if not (colon and hypothesis):
        raise SystemExit(f'{script}: docstring begins with {headline[:60]!r}; allowed: "Title: hypothesis."')
    picture, look = NORMS if name == "baseline" else CURVES
    words = {
        "name": name,
        "title": title,
        "hypothesis": hypothesis[0].upper() + hypothesis[1:],
        "difference": difference,
        "colab": colab_link(name),
        "repository": repository(),
        "readme": f"{repository()}/blob/{BRANCH}/experiments/{name}/README.md",
        "sentence": sentence(script.with_name("README.md")),
        "picture": picture,
        "look": look,
        "project": repository().rsplit("/", 1)[-1],
    }

    def source(template: str) -> list[str]:
        return Template(template).substitute(words).strip().splitlines(keepends=True)

    title, finding = (
        {"cell_type": "markdown", "id": key, "metadata": {}, "source": source(template)}
        for key, template in (("title", TITLE), ("finding", FINDING))
    )
    empty = {"cell_type": "code", "execution_count": None, "id": "", "metadata": {}, "outputs": []}
    cells = [{**empty, "id": key, "source": source(template)} for key, template in CODE_CELLS.items()]
    return text_of({"cells": [title, *cells, finding], "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})


def main() -> None:
    """Write or check the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only say which notebooks differ")
    check = parser.parse_args().check
    stale = 0
    texts = {script.with_name(f"{script.parent.name}.ipynb"): notebook(script) for script in scripts()}
    for path, text in (texts | {MONITOR: monitor_notebook()}).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path}: {'differs from what this script writes' if check else 'written'}")
    raise SystemExit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
