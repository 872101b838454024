"""Files that are read only if they can be, and appear under their final name whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from types import TracebackType

from zoo.codecs.errors import UserError


class MediaError(UserError):
    """A media file that cannot be read; the message names the file, the cause and the remedy."""

    def __init__(self, path: str | Path, cause: str, remedy: str) -> None:
        super().__init__(f"{printable(path)}: {cause}; {remedy}")


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

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`; the file being unbuffered, the system may take it in parts."""
        view, done = memoryview(data), 0
        while done < len(view):
            done += self.file.write(view[done:])

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


def check_readable(path: str | Path) -> None:
    """Raise a `MediaError` unless `path` is a regular file with something in it that may be read."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(path, "is a folder", "name a file")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(path, "is not a regular file", "save what it gives to a file first")
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        cause = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened: {error}"
        raise MediaError(path, cause, "check the path and its permissions") from error
    if status.st_size == 0:
        raise MediaError(path, "is empty (0 bytes)", "copy or make it again")


def cannot_write(shown: str, error: OSError) -> UserError:
    """The error for a write that the system refused: disk full, no permission, quota, name too long."""
    return UserError(f"{shown}: cannot write: {error.strerror or error}; free some space or write to another place")


def printable(path: str | Path) -> str:
    """A path as one line of valid text, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")
