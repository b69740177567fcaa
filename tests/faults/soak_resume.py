"""Kill studies at many random moments: python tests/soak_resume.py --kills 200 --seed 0

Prints one line: kills and what they interrupted, and whether every study ended with the same bytes; exit code 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faults.resume_helpers import survive


def main() -> None:
    """Say what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    said = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            phases, attempts, studies = survive(Path(folder), said.kills, random.Random(said.seed))
        except AssertionError as problem:
            traceback.print_exc()
            print(f"identical: no ({problem})")
            raise SystemExit(1) from None
    places = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
    print(
        f"{phases.total()} kills in {attempts} attempts at {studies} studies, {time.monotonic() - start:.0f} s; "
        f"killed during: {places}; identical: yes"
    )


if __name__ == "__main__":
    main()
