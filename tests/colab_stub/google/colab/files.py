"""A browser that notes what it was given."""

from pathlib import Path


def download(filename: str) -> None:
    """Add the name to downloads.txt in the working folder."""
    with Path("downloads.txt").open("a") as file:
        file.write(f"{filename}\n")
