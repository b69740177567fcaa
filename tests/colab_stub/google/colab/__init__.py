"""Stands in for Colab's package in the notebook tests."""
