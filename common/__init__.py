"""Shared engine of every experiment: environment, learner, measurements, results."""
