"""Media files of a corpus: finding them, setting some apart for validation, and bearing with those that are broken."""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zoo.codecs.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileList:
    """Media files, and for each the folder (speaker, class, ...) that it belongs to; all lie below `root`."""

    root: Path
    paths: list[Path]
    folders: list[str]


def find_files(folder: Path, suffixes: Collection[str], kind: str) -> list[Path]:
    """Every file below a folder with one of the suffixes, sorted by path.

    Raises:
        UserError: The folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of {kind} files; give an existing one")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise UserError(
            f"{folder}: is a folder that holds no {kind} file ({', '.join(sorted(suffixes))}); give a folder that does"
        )
    return found


def split_tree(
    train_dir: Path, valid_dir: Path | None, valid_percent: float, find: Callable[[Path], list[Path]]
) -> tuple[FileList, FileList]:
    """The files to train on and those to validate on: of two folders, or of one by `held_out`."""
    found = find(train_dir)
    if valid_dir:
        return below(train_dir, found), below(valid_dir, find(valid_dir))
    apart = {path for path in found if held_out(path.relative_to(train_dir).as_posix(), valid_percent)}
    if not apart or len(apart) == len(found):
        raise UserError(
            f"{train_dir}: {valid_percent} % of {len(found)} files set {len(apart)} apart for validation;"
            " change valid_percent or give a valid_dir"
        )
    return below(train_dir, [path for path in found if path not in apart]), below(train_dir, sorted(apart))


def held_out(name: str, percent: float) -> bool:
    """Whether a file belongs to validation, a fixed function of its path below the corpus (`"june/digits/7.flac"`).

    Its SHA-256, modulo 10,000, is under 100 times the percentage.
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10_000 < 100 * percent


def in_turns(names: Sequence[str], folders: Sequence[str], most: int) -> list[int]:
    """Places of at most `most` names: one of each folder in turn, within a folder by the SHA-256 of their last part."""
    queues: dict[str, list[int]] = {}
    for place, folder in enumerate(folders):
        queues.setdefault(folder, []).append(place)
    for queue in queues.values():
        queue.sort(key=lambda place: hashlib.sha256(names[place].rpartition("/")[2].encode()).digest())
    rounds = max(len(queue) for queue in queues.values())
    turns = [queue[k] for k in range(rounds) for _, queue in sorted(queues.items()) if k < len(queue)]
    return turns[:most]


class BrokenFiles:
    """Which files could not be read: each is reported once, with the reason, and counted.

    This holds across the worker processes of a data loader, too.
    """

    def __init__(self, files: int) -> None:
        self._bad = torch.zeros(files, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return int(self._bad.sum())

    def add(self, place: int, error: Exception, name: str | Path) -> None:
        """File number `place` cannot be read."""
        if not self._bad[place]:
            self._bad[place] = 1
            _log.warning("skipping %s (%d skipped so far): %s", name, len(self), error)


def below(root: Path, paths: list[Path]) -> FileList:
    """The files with the first folder on the way from `root` to each; `"."` for files in `root` itself."""
    parts = (path.relative_to(root).parts for path in paths)
    return FileList(root, paths, [part[0] if len(part) > 1 else "." for part in parts])
