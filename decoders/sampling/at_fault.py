"""Errors of models beside the target say whose they are: a model itself doesn't know what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_fault(part: str) -> Iterator[None]:
    """A ValueError that comes from within is raised again with the name of the part that it comes from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part} is at fault: {error}") from error
