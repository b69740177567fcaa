#!/usr/bin/env bash
# Builds paper/main.pdf: figures, tables and pages from the CSV files, then the text. Needs a TeX installation; on Debian:
#   apt-get install --no-install-recommends texlive-latex-base texlive-latex-recommended texlive-fonts-recommended latexmk
# PYTHON names the interpreter that has the packages of requirements.txt.
set -euo pipefail
cd "$(dirname "$0")"
python="${PYTHON:-python}"
export SOURCE_DATE_EPOCH=0 FORCE_SOURCE_DATE=1 # the same bytes from the same files, whatever the day
"$python" make.py
latexmk -gg -pdf -interaction=nonstopmode -halt-on-error -quiet main.tex
if grep -E "undefined|multiply defined|^Overfull" main.log; then
  echo "main.log: undefined references or overfull boxes, see above" >&2
  exit 1
fi
