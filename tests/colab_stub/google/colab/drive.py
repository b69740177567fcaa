"""A Drive that is a folder."""

from pathlib import Path


def mount(mountpoint: str) -> None:
    """Make the folder that Colab shows the user's Drive in."""
    Path(mountpoint, "MyDrive").mkdir(parents=True, exist_ok=True)
