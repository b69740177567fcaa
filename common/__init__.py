"""Shared engine of every experiment: environment, learner, measurements, results."""

import os

# Threads that wait for work spin a little and then sleep. With the default they spin so long that a second
# job on the same cores slows both down a hundredfold. Read once, when PyTorch loads its OpenMP library.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

# MKL's products must not round by where a matrix happens to lie in memory: a run's numbers are its own.
os.environ.setdefault("MKL_CBWR", "AUTO")
