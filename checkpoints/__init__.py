"""Bundled checkpoints: one folder `<architecture.tag>` each, with a manifest and, where they ship, the weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def names() -> list[str]:
    """Names of all bundled checkpoints, sorted."""
    return sorted(entry.parent.name for entry in _root().glob("*/manifest.json"))


def folder(name: str) -> Path:
    """Where the bundled checkpoint's files lie."""
    return _root() / name


def _root() -> Path:
    return Path(str(files(__name__)))
