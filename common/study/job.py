"""Starts one part of a study where a scheduler has put it: python -m common.study.job LOG SCRIPT [OPTIONS].

The part's process takes this one's place and appends to LOG what it prints. On Linux it is killed with the process that
started it, so that a scheduler that starts the part anew elsewhere finds its folder unlocked. It ignores SIGUSR2, by
which Slurm tells the process that started it of the end of its time.
"""

import contextlib
import ctypes
import os
import signal
import sys

KILL_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def main() -> None:
    """Become the part's process."""
    log, *command = sys.argv[1:]
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
