"""Figures, comparison and summary of recorded studies."""
