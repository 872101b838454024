"""Folders of media to token sets and rows of these back; see `zoo.token_sets` for what is written.

Files are taken in the order of their paths and cut into shards before any is read, so that an interrupted run can tell
which shards are done, and gives the very bytes of one that was not interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zoo
from zoo.codecs.audio.io import AudioWriter
from zoo.codecs.base import AudioCodec, Codec
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import image_writer
from zoo.codecs.image.tiling import Progress, decode_tiled
from zoo.pipeline import codec_of
from zoo.pipeline_files import Media, find_media
from zoo.pipeline_rows import Pictures, Rate, Recordings, tokenize_files
from zoo.token_set_manifest import (
    FORMAT,
    MANIFEST,
    SetManifest,
    check_codec,
    is_token_set,
    read_manifest,
    write_manifest,
)
from zoo.token_sets import Item, TokenSet, describe_shard, write_shard

SHARD_BYTES = 256 << 20  # of media: what an interruption loses at most, and what is held of their codes at once


def tokenize_folder(
    folder: str | Path,
    target: str | Path,
    model: str | Codec,
    codebooks: int | None = None,
    kbps: float | None = None,
    vary: bool = False,
    bpp: float | None = None,
    quality: float | None = None,
    beam: int = 1,
    texts: str | Path | None = None,
    shard_files: int = 512,
    workers: int = 2,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SetManifest:
    """Tokenize every audio file, or every picture, below a folder into a token set.

    Called again after an interruption it completes the set; called on a complete one it does nothing. Files that cannot
    be read are listed in the manifest. Channels beyond those of the codec are averaged. Codes do not depend on how many
    files are coded at once.

    Args:
        folder: Folder tree of media files, found by their suffixes; those on its first level are the labels.
        target: Folder to write.
        model: What `zoo.load` takes, or a codec; it decides between audio and pictures.
        codebooks, kbps, vary, bpp, quality, beam: See `zoo.tokenize`.
        texts: File of lines `path<TAB>text`, UTF-8, paths below the folder. Default: `NAME.txt` beside `NAME.wav`,
            where there is one.
        shard_files: Most media files in a shard.
        workers: Threads that read files ahead.
        device: Where the codec computes, if `model` is a name.
        progress: Called with the files done and the files in all.

    Raises:
        UserError: No media, not one that can be read, settings that the codec does not know, a target that holds
            anything else, or one that was begun with other files, codec or settings.
    """
    folder, target = Path(folder), Path(target)
    codec = codec_of(model, device)
    if beam < 1:
        raise UserError(f"a beam of {beam} cannot be; ask for 1 or more")
    rate = Rate(codebooks, kbps, vary, bpp, quality, beam)
    coder: Recordings | Pictures = (
        Recordings(codec, rate) if isinstance(codec, AudioCodec) else Pictures(codec, rate)  # type: ignore[arg-type]
    )
    media = find_media(folder, coder.suffixes, coder.kind, texts)
    plan = cut(media, shard_files)
    begun = SetManifest(
        FORMAT, False, codec.name, codec.weights, codec.info, codec.info.codebook_sizes[: coder.codebooks],
        rate.settings() | {"texts": "beside the media" if texts is None else Path(texts).name,
                           "shard_files": shard_files}, len(media), digest(media),
    )  # fmt: skip
    with claimed(target):
        begin(target, begun)
        names = [f"tokens-{number:05}-of-{len(plan):05}.parquet" for number in range(len(plan))]
        done = 0
        for name, part in zip(names, plan, strict=True):
            if not (target / name).exists():
                items, failed = [], []
                for seen, found in enumerate(tokenize_files(part, coder, workers)):
                    (items if isinstance(found, Item) else failed).append(found)
                    if progress is not None:
                        progress(done + seen + 1, len(media))
                write_shard(target / name, items, failed, begun)
            done += len(part)
            if progress is not None:
                progress(done, len(media))
        return complete(target, begun, names)


def reconstruct_row(
    folder: str | Path, row: int, target: str | Path, model: str | Codec | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Reconstruct one row of a token set into a media file at the codec's rate; returns facts about it.

    Args:
        model: What `zoo.load` takes, or a codec (default: the one that the set names, if it is bundled).

    Raises:
        UserError: No such set or row, another codec than the set's, or a target that cannot be written.
    """
    tokens = TokenSet(folder).tokens(row)
    if model is None and tokens.codec not in zoo.list_models():
        raise UserError(
            f"{printable(folder)}: was made by codec {tokens.codec!r}, which does not ship with this program;"
            " name it with --model"
        )
    codec = codec_of(tokens.codec if model is None else model, device)
    check_codec(read_manifest(folder), folder, codec.name, codec.weights)
    facts = {"codec": codec.name, "codebooks": tokens.codes.shape[1]}
    if isinstance(codec, ImageCodec):
        with image_writer(target) as write:
            pixels = decode_tiled(codec, tokens)
            write(pixels)
        return facts | {"width": pixels.shape[1], "height": pixels.shape[0]}
    with AudioWriter(target, codec.info.sample_rate, codec.info.channels) as writer:
        media = codec.decode(replace(tokens, codes=tokens.codes.to(codec.device)))[0].float().cpu().numpy()
        writer.write(media)
    return facts | {"seconds": media.shape[1] / codec.info.sample_rate}


def cut(media: Sequence[Media], shard_files: int) -> list[list[Media]]:
    """The files of each shard: at most so many, and at most `SHARD_BYTES` unless it is one file."""
    if shard_files < 1:
        raise UserError(f"a shard of {shard_files} files cannot be; ask for 1 or more")
    plan: list[list[Media]] = []
    total = 0
    for file in media:
        size = file.path.stat().st_size
        if not plan or len(plan[-1]) == shard_files or total + size > SHARD_BYTES:
            plan.append([])
            total = 0
        plan[-1].append(file)
        total += size
    return plan


def digest(media: Sequence[Media]) -> str:
    """What tells these files and texts from others: their names and sizes, and stated texts themselves."""
    found = hashlib.sha256()
    for file in media:
        text = file.text.stat().st_size if isinstance(file.text, Path) else file.text
        found.update(repr((file.name, file.path.stat().st_size, text)).encode())
    return found.hexdigest()


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """The folder, made if missing, for this process alone; a killed process gives it back, too."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{printable(target)}: cannot be a folder ({error.strerror}); name a new one") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{printable(target)}: another process is writing it; wait for it, or stop it") from error
    else:
        yield
    finally:
        os.close(descriptor)


def begin(target: Path, begun: SetManifest) -> None:
    """Lay down the manifest, or check that a set that was begun is this one."""
    for leftover in target.glob(".zoo-*.part"):  # of a process that was killed
        leftover.unlink()
    if is_token_set(target):
        found = read_manifest(target)
        for what in ("codec", "weights", "codebook_sizes", "settings", "files", "files_sha256"):
            before, now = getattr(found, what), getattr(begun, what)
            if before != now:
                raise UserError(
                    f"{printable(target)}: was begun with other {what}, {before!r}, and not {now!r};"
                    " name another folder, or delete this one to begin anew"
                )
    elif any(target.iterdir()):
        raise UserError(f"{printable(target)}: holds files that are no token set; name a new folder")
    else:
        write_manifest(target, begun)


def complete(target: Path, begun: SetManifest, names: Sequence[str]) -> SetManifest:
    """Count what the shards hold and lay down the complete manifest; a set that is complete stays as it is."""
    found = read_manifest(target)
    if found.complete:
        return found
    described = [describe_shard(target / name, begun.info.media) for name in names]
    shards, failed = [shard for shard, _, _ in described], [entry for _, failures, _ in described for entry in failures]
    totals = {what: sum(counts[what] for _, _, counts in described) for what in ("items", "codes", "texts", "pixels")}
    if totals["items"] + len(failed) != begun.files:
        raise UserError(
            f"{printable(target)}: its shards hold {totals['items']} of {begun.files} files, {len(failed)} failed;"
            " shards were changed: delete the folder and begin anew"
        )
    if not totals["items"]:
        for path in (*(target / name for name in names), target / MANIFEST):
            path.unlink()
        target.rmdir()
        raise UserError(
            f"none of {begun.files} files could be tokenized; the first, {failed[0].path}: {failed[0].reason}"
        )
    manifest = replace(
        begun, complete=True, shards=tuple(shards), failed=tuple(failed), **totals,
        seconds=sum(counts["seconds"] for _, _, counts in described),
        labels=tuple(sorted(set().union(*(counts["labels"] for _, _, counts in described)))),
        software={"python": platform.python_version()}
        | {name: version(name) for name in ("media-token-zoo", "torch", "numpy", "pyarrow")},
    )  # fmt: skip
    (target / "README.md").write_text(CARD.format(codec=begun.codec, items=manifest.items), encoding="utf-8")
    write_manifest(target, manifest)
    return manifest


CARD = """---
configs:
- config_name: default
  data_files: "tokens-*.parquet"
---
Tokens of {items} media files, made by the codec `{codec}`; `manifest.json` says how.

One row is one file: `codes` is a list for each codebook, its cells in raster order, -1 where a cell has no code;
`shape` is the grid of one codebook; `label` is the first folder on the `path`.

```python
import datasets, numpy
row = datasets.load_dataset("path/of/this/folder", split="train")[0]
codes = numpy.array(row["codes"]).reshape(-1, *row["shape"])
```
"""
