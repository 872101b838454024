"""Token sets: media of a whole folder as codes, in Parquet shards that every Parquet reader understands.

A set is a folder of `tokens-00000-of-00007.parquet` ..., a `manifest.json` (`zoo.token_set_manifest`) and a `README.md`
that `datasets` reads, too. One row is one item:

    path       string               of the media file, below the folder that was tokenized
    codes      list<list<int16>>    one list a codebook, cells in raster order; int32 for codebooks of over 32,768
    shape      list<int32>          of a codebook's codes: [time], [height, width], or [n] for tokenizers of fixed size
    length     int32                codes of one codebook: the product of `shape`
    depth      list<int16>          how many codebooks each cell uses, codes behind it being -1; null: all, everywhere
    scale      float                gain to multiply onto the reconstruction; null for codecs without
    label      string               first folder on the path; null if there is none
    text       string               null if there is none
    codec      string               name of the codec
    weights    string               hex digest of its weights
    samples    int64                audio: length at the codec's sample rate
    seconds    double               audio: the same in seconds
    height     int32                pictures: pixels
    width      int32                pictures: pixels

Codes are nested lists because these arrive everywhere as what they are: `numpy.array(row["codes"])` is
`[codebook, cells]`, of which `reshape(-1, *row["shape"])` makes the grid; bytes would arrive as a riddle. Within a file
the values lie in one run, so that nothing is lost by it.

A set of speech may have a `durations.parquet` beside its shards, a row for each of theirs:

    path       string               as above
    durations  list<int16>          frames of each byte of the text, in order, of which the sum is the length; or null
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from numpy import ndarray

from zoo.codecs.base import Tokens
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.token_set_manifest import Failure, SetManifest, Shard, read_manifest

FAILED = b"zoo.failed"
DURATIONS = "durations.parquet"
MOST_INT16 = 1 << 15


@dataclass(frozen=True)
class Item:
    """One row.

    Attributes:
        path: Of the media file, below the folder that was tokenized.
        codes: Integers `[codebook, *grid]`; -1 where a cell uses fewer codebooks.
        size: Samples at the codec's rate, or height and width in pixels.
        scale: Gain; None for codecs without.
        depth: Integers `[*grid]`; None if all codebooks are in use everywhere.
        label, text: None if there is none.
    """

    path: str
    codes: Int[ndarray, "codebook *grid"]
    size: tuple[int, ...]
    scale: float | None = None
    depth: Int[ndarray, "*grid"] | None = None
    label: str | None = None
    text: str | None = None

    @classmethod
    def of(cls, tokens: Tokens, grid: Sequence[int], **facts: Any) -> Item:
        """The one row of tokens, cut to its own grid; `facts` are path, label and text."""
        inside = tuple(slice(n) for n in grid)
        return cls(
            codes=tokens.codes[(0, slice(None), *inside)].cpu().numpy(),
            size=tuple(tokens.lengths[0].reshape(-1).tolist()),
            scale=None if tokens.scales is None else float(tokens.scales[0]),
            depth=None if tokens.depth is None else tokens.depth[(0, *inside)].cpu().numpy(),
            **facts,
        )


def pack_shard(items: Sequence[Item], failed: Sequence[Failure], manifest: SetManifest) -> bytes:
    """A Parquet file of these rows; it also remembers which files of its part of the folder gave none."""
    audio = manifest.info.media == "audio"
    sizes = np.array([item.size for item in items], np.int64).reshape(len(items), 1 if audio else 2)
    columns: dict[str, pa.Array] = {
        "path": pa.array([item.path for item in items], pa.string()),
        "codes": _nested([item.codes for item in items], manifest.codebook_sizes),
        "shape": pa.array([item.codes.shape[1:] for item in items], pa.list_(pa.int32())),
        "length": pa.array([math.prod(item.codes.shape[1:]) for item in items], pa.int32()),
        "depth": pa.array([None if i.depth is None else i.depth.ravel() for i in items], pa.list_(pa.int16())),
        "scale": pa.array([item.scale for item in items], pa.float32()),
        "label": pa.array([item.label for item in items], pa.string()),
        "text": pa.array([item.text for item in items], pa.string()),
        "codec": pa.array([manifest.codec] * len(items), pa.string()),
        "weights": pa.array([manifest.weights] * len(items), pa.string()),
    }
    if audio:
        columns["samples"] = pa.array(sizes[:, 0])
        columns["seconds"] = pa.array(sizes[:, 0] / manifest.info.sample_rate)
    else:
        columns["height"] = pa.array(sizes[:, 0].astype(np.int32))
        columns["width"] = pa.array(sizes[:, 1].astype(np.int32))
    table = pa.table(columns).replace_schema_metadata({FAILED: json.dumps([asdict(failure) for failure in failed])})
    return packed(table)


def packed(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def write_shard(path: Path, items: Sequence[Item], failed: Sequence[Failure], manifest: SetManifest) -> None:
    """Write a shard that is there whole or not at all."""
    with AtomicFile(path) as file:
        file.write(pack_shard(items, failed, manifest))


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Rows of one shard.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{printable(path)}: missing or damaged ({error}); delete it and tokenize again with the same command"
        ) from error


def describe_shard(path: Path, media: str) -> tuple[Shard, list[Failure], dict[str, Any]]:
    """A shard's entry in the manifest, the files that gave no row, and its part of the manifest's counts."""
    size = ["seconds"] if media == "audio" else ["height", "width"]
    table = read_shard(path, ["codes", "length", "label", "text", *size])
    data = path.read_bytes()
    failed = [Failure(**entry) for entry in json.loads(table.schema.metadata[FAILED])]
    rows = table.select(["label", "text", *size]).to_pydict()
    counts = {
        "items": table.num_rows,
        "codes": sum(int((values >= 0).sum()) for values in _values(table)),
        "texts": sum(text is not None for text in rows["text"]),
        "labels": {label for label in rows["label"] if label is not None},
        "seconds": math.fsum(rows.get("seconds", ())),
        "pixels": sum(h * w for h, w in zip(rows.get("height", ()), rows.get("width", ()), strict=True)),
    }
    return Shard(path.name, table.num_rows, len(data), hashlib.sha256(data).hexdigest()), failed, counts


class TokenSet:
    """A complete token set.

    Attributes:
        folder: Where it is.
        manifest: What it says about itself.

    Raises:
        UserError: There is no token set, it was interrupted, or shards are missing or of another size than they had.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        if not self.manifest.complete:
            raise UserError(
                f"{printable(folder)}: was interrupted while it was made; give the same command again to complete it"
            )
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise UserError(f"{printable(path)}: missing or damaged; copy the set again, or make it anew")

    def __len__(self) -> int:
        return self.manifest.items

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, of these columns."""
        return pa.concat_tables([read_shard(self.folder / shard.file, columns) for shard in self.manifest.shards])

    def codes(self) -> Codes:
        """Codes of all rows, held in memory as they are stored: 2 bytes each, 4 for large codebooks."""
        return Codes(
            read_shard(self.folder / shard.file, ["codes", "shape"]) for shard in self.manifest.shards if shard.rows
        )

    def durations(self) -> list[Int[ndarray, "byte"] | None] | None:
        """Frames of each byte of each row's text, None for a row of which they are not known; None: of no row.

        Raises:
            UserError: The file is damaged, or was made for other rows.
        """
        path = self.folder / DURATIONS
        if not path.is_file():
            return None
        found = read_shard(path, ["path", "durations"])
        if found["path"].to_pylist() != self.table(["path"])["path"].to_pylist():
            raise UserError(f"{printable(path)}: was made for other rows; delete it, and align the text again")
        return [None if row is None else np.array(row, np.int64) for row in found["durations"].to_pylist()]

    def write_durations(self, durations: Sequence[Int[ndarray, "byte"] | None]) -> None:
        """Write them beside the shards, for all rows."""
        table = self.table(["path"])
        rows = pa.array([None if row is None else row.astype(np.int16) for row in durations], pa.list_(pa.int16()))
        with AtomicFile(self.folder / DURATIONS) as file:
            file.write(packed(table.append_column("durations", rows)))

    def tokens(self, row: int) -> Tokens:
        """One row as what `codec.decode` takes.

        Raises:
            UserError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise UserError(f"{printable(self.folder)}: holds rows 0 to {len(self) - 1}, row {row} was asked for")
        for shard in self.manifest.shards:
            if row < shard.rows:
                break
            row -= shard.rows
        table = read_shard(self.folder / shard.file).slice(row, 1)
        codes = Codes([table])[0]
        facts = table.drop_columns(["codes"]).to_pylist()[0]
        audio = self.manifest.info.media == "audio"
        return Tokens(
            torch.from_numpy(codes.astype(np.int64))[None],
            torch.tensor([facts["samples"]] if audio else [[facts["height"], facts["width"]]]),
            None if facts["scale"] is None else torch.tensor([facts["scale"]]),
            facts["codec"],
            facts["weights"],
            None if facts["depth"] is None else torch.tensor(facts["depth"]).view(1, *codes.shape[1:]),
        )


class Codes(Sequence[ndarray]):
    """Codes `[codebook, *grid]` of each row of some tables, without copies.

    Attributes:
        shapes: int32 `[row, axes]`, the grid of each row.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._shards, starts, shapes = [], [], []
        for table in tables:
            column = table["codes"].combine_chunks()
            rows = column.offsets.to_numpy()
            self._shards.append(column.values.values.to_numpy())
            starts.append(column.values.offsets.to_numpy()[rows])
            shapes.append(np.array(table["shape"].to_pylist(), np.int32).reshape(table.num_rows, -1))
        self._starts = starts
        self._ends = np.cumsum([len(shape) for shape in shapes])
        self.shapes: Int[ndarray, "row axes"] = np.concatenate(shapes) if shapes else np.empty((0, 1), np.int32)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: Any) -> Int[ndarray, "codebook *grid"]:
        shard = int(np.searchsorted(self._ends, row, side="right"))
        place = row - (int(self._ends[shard - 1]) if shard else 0)
        start, stop = self._starts[shard][place : place + 2]
        return self._shards[shard][start:stop].reshape(-1, *self.shapes[row])


def _nested(codes: Sequence[Int[ndarray, "codebook *grid"]], sizes: Sequence[int]) -> pa.ListArray:
    """`list<list<int>>` of grids of codes."""
    kind = np.int16 if max(sizes) <= MOST_INT16 else np.int32
    books = [len(grid) for grid in codes]
    cells = [math.prod(grid.shape[1:]) for grid in codes]
    values = np.concatenate([grid.ravel() for grid in codes]).astype(kind) if codes else np.empty(0, kind)
    inner = np.cumsum([0, *np.repeat(cells, books)]).astype(np.int32)
    outer = np.cumsum([0, *books]).astype(np.int32)
    return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, pa.array(values)))


def _values(table: pa.Table) -> Iterable[ndarray]:
    """Every code in a table."""
    return (chunk.flatten().flatten().to_numpy() for chunk in table["codes"].chunks)
