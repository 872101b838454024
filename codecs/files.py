"""Files that appear under their final name whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

from zoo.codecs.errors import UserError


class AtomicFile:
    """Write to a temporary file beside `target`; `with` renames it there on success and removes it on any failure.

    Attributes:
        target: Final path, symbolic links resolved.
        file: The open temporary file, unbuffered, readable and writable.
    """

    def __init__(self, target: str | Path) -> None:
        self.shown = printable(target)
        try:
            self.target = Path(os.path.realpath(target))
            folder = self.target.parent
            if not folder.is_dir():
                raise UserError(f"{self.shown}: the folder {printable(folder)} does not exist; create it first")
            if self.target.exists() and not self.target.is_file():
                raise UserError(f"{self.shown}: exists and is not a regular file; name a file to write")
            # Short and without the target's name: that may already be as long as names can be.
            self.path = folder / f".zoo-{secrets.token_hex(6)}.part"
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise cannot_write(self.shown, error) from error
        self.file = os.fdopen(descriptor, "r+b", buffering=0)

    def commit(self) -> None:
        """Make the file durable and give it its final name."""
        try:
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.path, self.target)
        except OSError as error:
            self.discard()
            raise cannot_write(self.shown, error) from error

    def discard(self) -> None:
        """Remove the temporary file; nothing happens after `commit`."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.commit()
            return
        self.discard()
        if isinstance(error, OSError):
            raise cannot_write(self.shown, error) from error


def cannot_write(shown: str, error: OSError) -> UserError:
    """The error for a write that the system refused: disk full, no permission, quota, name too long."""
    return UserError(f"{shown}: cannot write: {error.strerror or error}; free some space or write to another place")


def printable(path: str | Path) -> str:
    """A path as one line of valid text, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")
