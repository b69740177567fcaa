#!/usr/bin/env bash
# Build dist/<name>_experiment.zip for every experiment; see --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec "${PYTHON:-python3}" experiments/make_zips.py "$@"
