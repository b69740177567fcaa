#!/usr/bin/env bash
# Builds paper/main.pdf: figures and tables from the CSV files, then the text. Needs a TeX installation; on Debian:
#   apt-get install --no-install-recommends texlive-latex-base texlive-latex-recommended texlive-fonts-recommended latexmk
# PYTHON names the interpreter that has the packages of requirements.txt.
set -euo pipefail
cd "$(dirname "$0")"
python="${PYTHON:-python}"
# The day of the last commit that touched what the paper is made from, so that the same commit gives the same bytes.
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct -- ../results . ':!main.pdf' 2>/dev/null || true)"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}" FORCE_SOURCE_DATE=1
"$python" make_figures.py || [ $? -eq 1 ] # 1: results of some figure are not recorded; a frame stands in its place
"$python" make_tables.py
latexmk -gg -pdf -interaction=nonstopmode -halt-on-error -quiet main.tex
if grep -E "undefined|multiply defined|^Overfull" main.log; then
  echo "main.log: undefined references or overfull boxes, see above" >&2
  exit 1
fi
