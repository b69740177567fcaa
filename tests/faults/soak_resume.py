"""Kill studies at many random moments: python tests/faults/soak_resume.py --kills 200 --seed 0

Prints one line: whether every study ended with the same bytes; exit code 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])

from faults.resume_helpers import survive  # noqa: E402


def main() -> None:
    """Say what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    said = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            attempts, studies = survive(Path(folder), said.kills, random.Random(said.seed))
        except AssertionError as problem:
            traceback.print_exc()
            print(f"identical: no ({problem})")
            raise SystemExit(1) from None
    seconds = time.monotonic() - start
    print(f"{said.kills} kills in {attempts} attempts at {studies} studies, {seconds:.0f} s; identical: yes")


if __name__ == "__main__":
    main()
