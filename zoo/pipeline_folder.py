"""Folders of media to token sets and rows of these back; see `zoo.token_sets` for what is written.

Files are taken in the order of their paths and cut into shards before any is read, so that an interrupted run can tell
which shards are done, and gives the very bytes of one that was not interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import zoo
from zoo.codecs.audio.io import AudioWriter, open_audio
from zoo.codecs.base import AudioCodec, Codec, Tokens
from zoo.codecs.depth import at_price, price_of_stream, with_depth
from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError, check_readable, printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import image_writer, read_pixels, to_float
from zoo.codecs.image.tiling import Progress, axes, decode_tiled
from zoo.pipeline import codec_of, coding, refuse
from zoo.pipeline_audio import as_rows, choose_codebooks, chunk_seconds, encode_chunks, measure_scales
from zoo.pipeline_image import encode
from zoo.recipes.data.clips import AUDIO_SUFFIXES
from zoo.recipes.data.files import find_files
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES
from zoo.token_set_manifest import (
    FORMAT,
    MANIFEST,
    Failure,
    SetManifest,
    check_codec,
    is_token_set,
    read_manifest,
    write_manifest,
)
from zoo.token_sets import Item, TokenSet, describe_shard, write_shard

SHARD_BYTES = 256 << 20  # of media: what an interruption loses at most, and what is held of their codes at once
BATCH_SECONDS, BATCH_PIXELS = 60, 600_000  # coded at once on a CPU, in about 2 GB by the largest networks
ACCELERATOR = 8  # times as much, to keep one busy
Alone = Callable[[], Tokens]


@dataclass(frozen=True)
class Media:
    """One media file: where it is, its name in the set, and what goes with it."""

    path: Path
    name: str
    label: str | None
    text: str | Path | None  # or the file that holds it


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
    media = find_media(folder, coder, texts)
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


@dataclass(frozen=True)
class Rate:
    """How many codes to spend; see `zoo.tokenize`."""

    codebooks: int | None
    kbps: float | None
    vary: bool
    bpp: float | None
    quality: float | None
    beam: int

    def settings(self) -> dict[str, Any]:
        """What was asked for, without what was not."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


class Recordings:
    """Reads and codes audio files.

    Attributes:
        codebooks: How many each row has.
        most: Samples that are coded at once.
    """

    suffixes, kind = AUDIO_SUFFIXES, "audio"

    def __init__(self, codec: AudioCodec, rate: Rate) -> None:
        refuse("audio", bpp=rate.bpp, quality=rate.quality)
        if rate.vary and rate.kbps is None:
            raise UserError("codes that vary from frame to frame need a bitrate to reach: give kbps as well")
        self.codec, self.rate = codec, rate
        self.codebooks = choose_codebooks(codec.info, 1, rate.codebooks, None if rate.vary else rate.kbps)
        self.most = scaled(codec, BATCH_SECONDS * codec.info.sample_rate)

    def read(self, path: Path) -> Tensor | Alone:
        """Samples `[channel, time]` at the codec's rate, or how to code a file that is not for a batch."""
        if self.rate.vary:
            return lambda: self.stream(path)
        parts, length = [], 0
        for block in self.blocks(path):
            parts.append(block[0])
            length += block.shape[-1]
            if length > self.most:
                return lambda: self.stream(path)
        return torch.cat(parts, 1)

    def blocks(self, path: Path) -> Iterator[Float[Tensor, "1 channel time"]]:
        """A file at the codec's rate and channels, piece by piece."""
        with open_audio(path) as file:
            step = max(1, int(file.rate * chunk_seconds(file.rate, file.channels)))
            info = self.codec.info
            yield from as_rows(file, step, info, 1, "each" if file.channels <= info.channels else "mix")

    def stream(self, path: Path) -> Tokens:
        """Tokens of a recording of any length, in constant memory."""
        codec, rate, search = self.codec, self.rate, self.codec.beam_search(self.codebooks, self.rate.beam)
        scales = measure_scales(codec, self.blocks(path))
        scales = None if scales is None else scales.to(codec.device)
        if rate.vary:
            media = (block.to(codec.device) for block in self.blocks(path))
            price = price_of_stream(codec, media, rate.kbps or 0, scales, self.codebooks, rate.beam)
            search = at_price(codec, price, self.codebooks, rate.beam)
        media = (block.to(codec.device) for block in self.blocks(path))
        chunks = list(encode_chunks(codec, media, scales, self.codebooks, search))
        codes, length = torch.cat([codes for _, codes in chunks], -1), sum(size for size, _ in chunks)
        tokens = Tokens(codes, torch.tensor([length]), scales, codec.name, codec.weights)
        return with_depth(tokens) if rate.vary else tokens

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Frames of a recording of so many samples."""
        return (-(-size[0] // self.codec.info.hop),)


class Pictures:
    """Reads and codes pictures.

    Attributes:
        codebooks: How many each row has.
        most: Pixels that are coded at once.
    """

    suffixes, kind = PICTURE_SUFFIXES, "picture"

    def __init__(self, codec: ImageCodec, rate: Rate) -> None:
        refuse("pictures", kbps=rate.kbps, vary=rate.vary or None)
        self.codec, self.rate = codec, rate
        self.codebooks = choose_codebooks(codec.info, 1, rate.codebooks, None)
        self.most = scaled(codec, BATCH_PIXELS)

    def read(self, path: Path) -> Tensor | Alone:
        """A picture `[3, height, width]` in [0, 1], or how to code one that is not for a batch."""
        pixels, rate = read_pixels(path), self.rate
        rows, columns = axes(self.codec, pixels.shape[:2], None)
        tiled = not self.codec.info.tile and len(rows) * len(columns) > 1
        if tiled or pixels.shape[0] * pixels.shape[1] > self.most or (rate.bpp, rate.quality) != (None, None):
            entropy: Any = coding(self.codec, None)["entropy"]  # of the file whose bits are counted
            return lambda: encode(
                self.codec, pixels, self.codebooks, rate.bpp, rate.quality, rate.beam, entropy, None
            )  # fmt: skip
        return torch.from_numpy(to_float(pixels))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Codes of each codebook for a picture of that height and width."""
        return self.codec.grid(*size)


def scaled(codec: Codec, amount: int) -> int:
    """How much media to code at once where the codec computes."""
    return amount * (1 if codec.device.type == "cpu" else ACCELERATOR)


def find_media(folder: Path, coder: Recordings | Pictures, texts: str | Path | None) -> list[Media]:
    """Every media file below a folder with its label and text."""
    paths = find_files(folder, coder.suffixes, coder.kind)
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


def tokenize_files(media: Sequence[Media], coder: Recordings | Pictures, workers: int) -> Iterator[Item | Failure]:
    """A row for each file, or why there is none, in order; files are read ahead and coded in batches."""
    batch: list[tuple[Media, Tensor, str | None]] = []
    for file, found in read_ahead(media, coder, workers):
        together = isinstance(found, tuple) and isinstance(found[0], Tensor)
        if batch and not (together and fits([row[1] for row in batch], found[0], coder.most)):
            yield from code_batch(batch, coder)
            batch = []
        if together:
            batch.append((file, *found))
        elif isinstance(found, tuple):
            alone, text = found
            yield code_alone(file, alone, text, coder)
        else:
            yield Failure(file.name, found)
    if batch:
        yield from code_batch(batch, coder)


def fits(batch: Sequence[Tensor], media: Tensor, most: int) -> bool:
    """Whether a batch with one more of these media, padded to one size, is not too large to code at once."""
    largest = [max(axis) for axis in zip(*[row.shape[1:] for row in (*batch, media)], strict=True)]
    return (len(batch) + 1) * torch.Size(largest).numel() <= most


def code_batch(
    batch: Sequence[tuple[Media, Tensor, str | None]], coder: Recordings | Pictures
) -> Iterator[Item | Failure]:
    """Rows of media that are coded at once; where the codec refuses one of them, each is tried by itself."""
    codec = coder.codec
    sizes = torch.tensor([row.shape[1:] for _, row, _ in batch])
    padded = torch.zeros(len(batch), batch[0][1].shape[0], *sizes.amax(0).tolist())
    for target, (_, row, _) in zip(padded, batch, strict=True):
        target[(slice(None), *(slice(n) for n in row.shape[1:]))] = row
    lengths = sizes if codec.info.media == "image" else sizes[:, 0]
    try:
        tokens = codec.encode(padded.to(codec.device), coder.codebooks, lengths, beam=coder.rate.beam)
    except ValueError as error:
        if len(batch) == 1:
            yield Failure(batch[0][0].name, str(error))
        else:
            for one in batch:
                yield from code_batch([one], coder)
        return
    for k, (file, _, text) in enumerate(batch):
        row, scales = slice(k, k + 1), tokens.scales
        one = replace(
            tokens, codes=tokens.codes[row], lengths=lengths[row], scales=None if scales is None else scales[row]
        )
        yield Item.of(one, coder.grid(sizes[k].tolist()), path=file.name, label=file.label, text=text)


def code_alone(file: Media, alone: Alone, text: str | None, coder: Recordings | Pictures) -> Item | Failure:
    """The row of a file that is coded by itself, or why there is none: a rate out of its reach."""
    try:
        tokens = alone()
    except (UserError, ValueError) as error:
        return Failure(file.name, reason_of(file, error))
    grid = coder.grid(tokens.lengths[0].reshape(-1).tolist())
    return Item.of(tokens, grid, path=file.name, label=file.label, text=text)


def read_ahead(
    media: Iterable[Media], coder: Recordings | Pictures, workers: int
) -> Iterator[tuple[Media, tuple[Tensor | Alone, str | None] | str]]:
    """Each file's media and text, or why it cannot be read, in order; threads read a few files ahead."""

    def read(file: Media) -> tuple[Tensor | Alone, str | None] | str:
        try:
            text = decoded(file.text).strip() if isinstance(file.text, Path) else file.text
            return coder.read(file.path), text
        except UserError as error:
            return reason_of(file, error)

    files = iter(media)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[Media, Future]] = deque()
        while True:
            waiting.extend((file, pool.submit(read, file)) for file in islice(files, 2 * workers + 1 - len(waiting)))
            if not waiting:
                return
            file, future = waiting.popleft()
            yield file, future.result()


def reason_of(file: Media, error: Exception) -> str:
    """Why a file gave no row, without its place on this machine."""
    return str(error).removeprefix(f"{printable(file.path)}: ")


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
