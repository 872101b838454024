"""What a token set says about itself: the `manifest.json` beside its shards. See `zoo.token_sets` for the shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.configs import from_json, read_json, to_json

MANIFEST = "manifest.json"
FORMAT: Literal["zoo token set"] = "zoo token set"


@dataclass(frozen=True)
class Shard:
    """A Parquet file of the set: its name, rows, size and hex digest."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Failure:
    """A media file that gave no row: its path below the folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SetManifest:
    """Facts about a token set. Those up to `files_sha256` are known before the work, the others behind it.

    Attributes:
        format: Always the same, to know such a manifest by.
        complete: Every file has been seen; else the set is in the making or was interrupted.
        codec: Name of the codec that made the codes, "" if it has none.
        weights: Hex digest of its weights, "" if unknown.
        info: Facts about the codec.
        codebook_sizes: Number of codes of each stored codebook, coarse to fine.
        settings: What was asked for: number of codebooks, rate, beam, ...
        files: Media files below the folder.
        files_sha256: Digest of their names and sizes, and of their texts' sizes.
        items: Rows in all shards.
        codes: Codes in all rows and codebooks.
        seconds: Of audio, in all rows; 0 for pictures.
        pixels: Of pictures, in all rows; 0 for audio.
        texts: Rows that have a text.
        labels: Every label, sorted.
        failed: Media files that gave no row.
        shards: In order; all their rows are all the items.
        software: Versions of what made the set.
        version: Of this layout.
    """

    format: Literal["zoo token set"]
    complete: bool
    codec: str
    weights: str
    info: CodecInfo
    codebook_sizes: tuple[int, ...]
    settings: dict[str, Any]
    files: int
    files_sha256: str
    items: int = 0
    codes: int = 0
    seconds: float = 0.0
    pixels: int = 0
    texts: int = 0
    labels: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    shards: tuple[Shard, ...] = ()
    software: dict[str, str] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ValueError(f"version {self.version} of token sets is not known, only 1; install a newer program")


def is_token_set(path: str | Path) -> bool:
    """Whether a folder holds a token set, be it one in the making."""
    try:
        values = json.loads(Path(path, MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(folder: str | Path) -> SetManifest:
    """The manifest of a token set, complete or not.

    Raises:
        UserError: There is no token set, or its manifest is damaged.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        raise UserError(f"{printable(folder)}: is no token set; make one with: zoo tokenize FOLDER --out SET")
    if not is_token_set(folder):
        raise UserError(f"{printable(path)}: is no manifest of a token set, or damaged; make the set again")
    return from_json(SetManifest, read_json(path), str(path))


def write_manifest(folder: Path, manifest: SetManifest) -> None:
    """Put the manifest in place, whole."""
    with AtomicFile(folder / MANIFEST) as file:
        file.write((json.dumps(to_json(manifest), indent=1, ensure_ascii=False) + "\n").encode())


def check_codec(manifest: SetManifest, where: str | Path, codec: str, weights: str = "") -> None:
    """Raise UserError unless that codec made the set; a digest that one side does not know is not compared."""
    if manifest.codec != codec:
        raise UserError(
            f"{printable(where)}: was made by codec {manifest.codec!r}, asked for is {codec!r};"
            f" tokenize its media again with --model {codec}"
        )
    if weights and manifest.weights and manifest.weights != weights:
        raise UserError(
            f"{printable(where)}: was made by {codec!r} with weights {manifest.weights[:12]}, asked for are those of"
            f" {weights[:12]}; tokenize its media again, or use the weights that made it"
        )
