"""The media files of a folder, each with its label and text; called by `zoo.pipeline_folder`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError, check_readable, printable
from zoo.recipes.data.files import find_files


@dataclass(frozen=True)
class Media:
    """One media file: where it is, its name in the set, and what goes with it."""

    path: Path
    name: str
    label: str | None
    text: str | Path | None  # or the file that holds it


def find_media(folder: Path, suffixes: Collection[str], kind: str, texts: str | Path | None) -> list[Media]:
    """Every media file below a folder with its label and text."""
    paths = find_files(folder, suffixes, kind)
    names = [printable(path.relative_to(folder).as_posix()) for path in paths]
    stated = {} if texts is None else read_texts(Path(texts))
    if stated and not stated.keys() & set(names):
        raise UserError(
            f"{printable(texts or '')}: none of its {len(stated)} paths is one of the {len(names)} files below"
            f" {printable(folder)}, such as {names[0]!r}"
        )
    media = []
    for path, name in zip(paths, names, strict=True):
        beside = path.with_suffix(".txt")
        text = stated.get(name) if texts is not None else beside if beside.exists() else None
        media.append(Media(path, name, name.partition("/")[0] if "/" in name else None, text))
    return media


def read_texts(path: Path) -> dict[str, str]:
    """Texts by path, of a file of lines `path<TAB>text`.

    Raises:
        UserError: It is missing, not UTF-8, empty, or holds a line of another form or a path twice.
    """
    check_readable(path)
    found: dict[str, str] = {}
    for number, line in enumerate(decoded(path).splitlines(), 1):
        name, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{printable(path)}: line {number} has no tab; each line must be a path, a tab, a text")
        if name in found:
            raise UserError(f"{printable(path)}: line {number} names {name!r} a second time; leave one text for it")
        found[name] = text.strip()
    return found


def decoded(path: Path) -> str:
    """The text in a UTF-8 file.

    Raises:
        MediaError: It cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(path, f"is no UTF-8 text ({error})", "convert it") from error
