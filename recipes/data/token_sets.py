"""A Lightning data module that reads token sets, as `zoo tokenize FOLDER --out SET` writes them, to train decoders."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.configs import suggestion
from zoo.decoders.conditioning import text_ids
from zoo.recipes.data.files import held_out, in_turns
from zoo.recipes.data.length_buckets import LengthBuckets
from zoo.recipes.data.peers import Peers
from zoo.recipes.data.stream import BatchStream, ResumableDataModule, ResumableLoader
from zoo.text_vocabulary import TextVocabulary
from zoo.token_set_manifest import check_codec
from zoo.token_sets import Codes, TokenSet

NOTHING = -1  # where a batch has no code, label or byte

_log = logging.getLogger(__name__)


class TokenSets(ResumableDataModule):
    """Batches of items of similar length out of one or several token sets of one codec.

    Training and validation batches are

        codes      int64 [batch, codebook, *grid]; -1 behind an item's own grid, and where a cell uses fewer codebooks
        lengths    int64 [batch], or [batch, 2] for pictures: cells of each item along each axis
        label      int64 [batch], its place in `labels`; -1 without
        text       list of str, "" without; or, as `text` says, int64 [batch, byte] of UTF-8 or [batch, id] of a
                   tokenizer, -1 behind
        durations  int64 [batch, byte], frames of each byte of the text, 0 behind; if all sets know them
                   (`zoo.recipes.align`) and texts are no tokenizer's ids: items of which they are not known are given
                   without text, then
        reference  int64 [batch, frame, codebook], a part of another item of the same label, such as speech of the same
                   voice; -1 behind it, and for items that have none; if `reference` is set

    Which items make training batch i is a pure function of the sets, the settings, the seed and i; each item comes once
    in a round over all. The share of padding is logged; `largest` tells the grids of the largest items. All codes are
    held in memory, 2 bytes each (4 for codebooks of more than 32,768 codes).

    Args:
        train_sets: Folders of token sets.
        valid_sets: Folders of the sets to validate on; none to set apart items of the training sets by `held_out`.
        valid_percent: Percentage set apart where there are no `valid_sets`.
        codec: Name of the codec whose tokens these must be (default: that of the first set).
        weights: Hex digest of its weights (default: of a bundled codec those that are bundled; else of the first set).
        codebooks: Use the first so many codebooks (default: all).
        batch_cells: Most frames or cells in a batch on each device, padding included; times `codebooks` for codes.
        longest: Longest item, in frames or cells (default: `batch_cells`). Longer ones are left out, or
        crop: with this, of longer sequences a part that is drawn anew each time.
        bucket_ratio: See `LengthBuckets`.
        text: How texts are given: "text", "bytes", or as ids of a tokenizer, whose `tokenizer.json` this is.
        voices: Labels of the items to use, of speech the speakers (default: all).
        reference: Most frames of the reference of each item (default: there are none).
        valid_items: Most items to validate on, taken in turn from every label.
        seed: Of the order and of the parts.
        epoch_batches: Batches that make an epoch, on each device.
        workers: Worker processes; the batches are the same for any number.
    """

    def __init__(
        self,
        train_sets: list[str],
        valid_sets: list[str] | None = None,
        valid_percent: float = 5.0,
        codec: str | None = None,
        weights: str | None = None,
        codebooks: int | None = None,
        batch_cells: int = 4096,
        longest: int | None = None,
        crop: bool = False,
        bucket_ratio: float = 1.15,
        text: str = "text",
        voices: list[str] | None = None,
        reference: int | None = None,
        valid_items: int = 64,
        seed: int = 0,
        epoch_batches: int = 500,
        workers: int = 0,
    ) -> None:
        super().__init__(epoch_batches, workers)
        self.train_sets, self.valid_sets, self.valid_percent = train_sets, valid_sets, valid_percent
        self.codec, self.weights, self.codebooks = codec, weights, codebooks
        self.batch_cells, self.longest, self.crop = batch_cells, longest or batch_cells, crop
        self.bucket_ratio, self.text, self.valid_items, self.seed = bucket_ratio, text, valid_items, seed
        self.voices, self.reference = voices, reference
        self.codebook_sizes: tuple[int, ...] = ()
        self.labels: tuple[str, ...] = ()
        self.paces: tuple[float, ...] = ()
        self.grid: tuple[int, ...] = ()
        self.largest: tuple[tuple[int, ...], ...] = ()
        self.text_vocabulary: TextVocabulary | None = None
        self._train: TokenBatches | None = None
        self._valid: TokenBatches | None = None

    def setup(self, stage: str) -> None:
        """Read the sets.

        Raises:
            UserError: No set there, sets of other codecs or weights than asked for, or of too few codebooks, or
                nothing left to train or to validate on; or no tokenizer.
        """
        if self._valid is not None:
            return
        if self.text not in ("text", "bytes"):
            self.text_vocabulary = TextVocabulary.read(self.text)
        train = [TokenSet(folder) for folder in self.train_sets]
        valid = [TokenSet(folder) for folder in self.valid_sets or ()]
        if not train:
            raise UserError("there is no token set to train on; give one: --data.train_sets='[SET]'")
        self._check([*train, *valid])
        self.labels = self._labels([*train, *valid])
        items = self._wanted(Items.of(train, self.labels))
        if valid:
            others = self._wanted(Items.of(valid, self.labels))
        else:
            apart = np.array([held_out(path, self.valid_percent) for path in items.paths.to_pylist()])
            if not apart.any() or apart.all():
                raise UserError(
                    f"{self.train_sets[0]}: {self.valid_percent} % of {len(apart)} items set {int(apart.sum())} apart"
                    " for validation; change valid_percent or give valid_sets"
                )
            items, others = items.only(np.flatnonzero(~apart)), items.only(np.flatnonzero(apart))
        items = self._short(items, "train")
        self._check_reference(items)
        self.paces, self.grid = items.paces(len(self.labels)), items.grid()
        self._train = self._batches(items)
        others = self._short(others, "validate")
        folders = [self.labels[k] if k >= 0 else "" for k in others.labels]
        self._valid = self._batches(others.only(in_turns(others.paths.to_pylist(), folders, self.valid_items)))
        self.largest = largest(np.concatenate([self._train.buckets.shapes, self._valid.buckets.shapes]))
        self.padding = self._train.buckets.padding()
        _log.info(
            "%d items to train on in %d batches a round, %.1f %% of them padding; %d items to validate on",
            len(self._train.items), len(self._train.buckets), 100 * self.padding, len(self._valid.items),
        )  # fmt: skip

    def train_stream(self, rank: int, ranks: int) -> BatchStream:
        """See `ResumableDataModule.train_stream`."""
        assert self._train is not None, "setup comes first"
        return BatchStream(self._train.batch, self.epoch_batches, rank, ranks)

    def train_dataloader(self) -> ResumableLoader:
        """The stream of batches, from where training stopped; logs the share of padding."""
        loader = super().train_dataloader()
        if self.trainer and self.trainer.logger:
            self.trainer.logger.log_metrics({"data/padding": self.padding}, step=self.trainer.global_step)
        return loader

    def val_dataloader(self) -> DataLoader:
        """Every item to validate on, once; always in the same batches."""
        assert self._valid is not None, "setup comes first"
        return DataLoader(FirstRound(self._valid), batch_size=None)

    def _check(self, sets: Sequence[TokenSet]) -> None:
        first = sets[0].manifest
        codec = first.codec if self.codec is None else self.codec
        weights = self.weights or (registry.info(codec).sha256 if codec in registry.list_models() else first.weights)
        for given in sets:
            check_codec(given.manifest, given.folder, codec, weights)
            if self.codebooks is None and given.manifest.codebook_sizes != first.codebook_sizes:
                raise UserError(
                    f"{given.folder}: holds {len(given.manifest.codebook_sizes)} codebooks, {sets[0].folder} holds"
                    f" {len(first.codebook_sizes)}; say how many to use: codebooks"
                )
            if not 1 <= (self.codebooks or 1) <= len(given.manifest.codebook_sizes):
                raise UserError(
                    f"{given.folder}: holds {len(given.manifest.codebook_sizes)} codebooks, {self.codebooks} were asked"
                    " for; ask for fewer, or tokenize again with more"
                )
        self.codebook_sizes = first.codebook_sizes[: self.codebooks]
        self.codec, self.weights = codec, weights  # what a decoder that is trained on them says it writes tokens of

    def _labels(self, sets: Sequence[TokenSet]) -> tuple[str, ...]:
        """Of the items to use."""
        there = {label for given in sets for label in given.manifest.labels}
        for voice in self.voices or ():
            if voice not in there:
                raise UserError(f"the sets have no label {voice!r}{suggestion(voice, sorted(there))}")
        return tuple(sorted(there if self.voices is None else set(self.voices)))

    def _wanted(self, items: "Items") -> "Items":
        """Those of the labels to use."""
        return items if self.voices is None else items.only(np.flatnonzero(items.labels >= 0))

    def _short(self, items: "Items", purpose: str) -> "Items":
        """Without items that are too long, if these are not cropped."""
        if self.crop and items.shapes.shape[1] > 1:
            raise UserError("pictures cannot be cropped to a number of cells; set crop to false")
        fitting = np.flatnonzero(self.crop | (items.shapes.prod(1, dtype=np.int64) <= self.longest))
        if len(fitting) < len(items):
            _log.warning(
                "%d of %d items to %s on are longer than %d cells and left out",
                len(items) - len(fitting), len(items), purpose, self.longest,
            )  # fmt: skip
        if not len(fitting):
            raise UserError(f"no item to {purpose} on has {self.longest} cells or fewer; raise longest, or crop")
        return items.only(fitting)

    def _check_reference(self, items: "Items") -> None:
        if self.reference is None:
            return
        if self.reference < 1:
            raise UserError(f"references of {self.reference} frames; ask for 1 or more, or leave them out")
        if items.shapes.shape[1] > 1:
            raise UserError("references are parts of sound, and these are pictures; leave reference out")
        if not Peers(items.labels).count.max() > 1:
            raise UserError(
                "a reference is a part of another item of the same label, and no two of these items share one; tokenize"
                " a folder with a folder for each voice"
            )

    def _batches(self, items: "Items") -> "TokenBatches":
        shapes = items.shapes.clip(max=self.longest) if self.crop else items.shapes
        buckets = LengthBuckets(shapes, self.batch_cells, self.bucket_ratio, self.seed)
        if self.crop or self.text_vocabulary:  # nobody knows which bytes are left, or how long an id lasts
            items = replace(items, durations=None)
        return TokenBatches(
            items, buckets, len(self.codebook_sizes), self.text != "text", self.text_vocabulary, self.seed,
            self.reference, Peers(items.labels),
        )  # fmt: skip


@dataclass(frozen=True)
class Items:
    """Rows of some token sets.

    Attributes:
        codes: Of all rows of each set.
        places: Set and row of each item.
        shapes: Grid of each item.
        paths, texts: Strings; texts may be null.
        labels: Numbers; -1 without.
        durations: Frames of each byte of each text, None where not known; None: of none.
    """

    codes: list[Codes]
    places: Int[ndarray, "item 2"]
    shapes: Int[ndarray, "item axes"]
    paths: pa.Array
    texts: pa.Array
    labels: Int[ndarray, "item"]
    durations: list[Int[ndarray, "byte"] | None] | None = None

    @classmethod
    def of(cls, sets: Sequence[TokenSet], labels: Sequence[str]) -> "Items":
        """All rows of all sets."""
        tables = pa.concat_tables([given.table(["path", "text", "label"]) for given in sets]).combine_chunks()
        codes = [given.codes() for given in sets]
        numbers = {label: number for number, label in enumerate(labels)}
        known = [given.durations() for given in sets]
        told = all(each is not None for each in known)
        return cls(
            codes,
            np.concatenate([np.stack([np.full(len(c), k), np.arange(len(c))], 1) for k, c in enumerate(codes)]),
            np.concatenate([found.shapes for found in codes]),
            tables["path"].combine_chunks(),
            tables["text"].combine_chunks(),
            np.array([numbers.get(label, NOTHING) for label in tables["label"].to_pylist()], np.int64),
            [row for each in known for row in each or ()] if told else None,
        )

    def __len__(self) -> int:
        return len(self.places)

    def only(self, chosen: Sequence[int] | Int[ndarray, "some"]) -> "Items":
        """These items."""
        chosen = np.asarray(chosen, np.int64)
        return Items(
            self.codes, self.places[chosen], self.shapes[chosen], self.paths.take(pa.array(chosen)),
            self.texts.take(pa.array(chosen)), self.labels[chosen],
            None if self.durations is None else [self.durations[item] for item in chosen],
        )  # fmt: skip

    def paces(self, labels: int) -> tuple[float, ...]:
        """Mean number of frames for a byte of text, of each label, 0 where none has text; () of pictures or no text."""
        amount = np.array([len((text or "").encode()) for text in self.texts.to_pylist()], np.int64)
        counted = (amount > 0) & (self.labels >= 0)
        if self.shapes.shape[1] > 1 or not counted.any():
            return ()
        both = (each[counted] for each in (self.shapes[:, 0], amount))
        frames, bytes_ = (np.bincount(self.labels[counted], each, labels) for each in both)
        return tuple((frames / bytes_.clip(min=1)).tolist())

    def grid(self) -> tuple[int, ...]:
        """The grid of all items, if they are pictures of one size; else ()."""
        alike = self.shapes.shape[1] > 1 and (self.shapes == self.shapes[0]).all()
        return tuple(self.shapes[0].tolist()) if alike else ()

    def codes_of(self, item: int) -> Int[ndarray, "codebook *grid"]:
        """Codes as they are stored."""
        number, row = self.places[item]
        return self.codes[number][int(row)]


@dataclass(frozen=True)
class TokenBatches:
    """Makes the batch of any number; see `TokenSets` for what is in one.

    Attributes:
        buckets: Which items make it; its shapes are those of the items, or of the parts that are taken of longer ones.
        as_ids: Texts come as ids: of the vocabulary, or bytes.
        peers: Of the items.
    """

    items: Items
    buckets: LengthBuckets
    codebooks: int
    as_ids: bool
    vocabulary: TextVocabulary | None
    seed: int
    reference: int | None
    peers: Peers

    def batch(self, number: int) -> dict[str, Any]:
        """Batch `number` of the endless stream."""
        chosen = self.buckets.batch(number)
        shapes = self.buckets.shapes[chosen]
        codes = np.full((len(chosen), self.codebooks, *shapes.max(0)), NOTHING, np.int64)
        draw = np.random.default_rng((self.seed, number, 1))  # the 1 tells it from the order's
        for target, item, shape in zip(codes, chosen, shapes, strict=True):
            grid = self.items.codes_of(item)[: self.codebooks]
            grid = part_of(grid, int(shape[-1]), draw)
            target[(slice(None), *(slice(n) for n in shape))] = grid
        texts = [text or "" for text in self.items.texts.take(pa.array(chosen)).to_pylist()]
        lengths = torch.from_numpy(shapes.astype(np.int64))
        known = {} if self.reference is None else {"reference": self._references(chosen, number)}
        if self.items.durations is not None:
            times = [self.items.durations[item] for item in chosen]
            texts = ["" if row is None else text for row, text in zip(times, texts, strict=True)]
            rows = [torch.zeros(0, dtype=torch.int64) if row is None else torch.from_numpy(row) for row in times]
            known["durations"] = pad_sequence(rows, batch_first=True)
        return known | {
            "codes": torch.from_numpy(codes),
            "lengths": lengths if lengths.shape[1] > 1 else lengths[:, 0],
            "label": torch.from_numpy(self.items.labels[chosen]),
            "text": text_ids(texts, self.vocabulary) if self.as_ids else texts,
        }

    def _references(self, chosen: Int[ndarray, "batch"], number: int) -> Int[Tensor, "batch frame codebook"]:
        draw, parts = np.random.default_rng((self.seed, number, 2)), []
        for item in chosen:
            other = self.peers.other(int(item), draw)
            codes = np.zeros((self.codebooks, 0)) if other is None else self.items.codes_of(other)[: self.codebooks]
            parts.append(torch.from_numpy(part_of(codes, self.reference, draw).T.astype(np.int64)))
        return pad_sequence(parts, batch_first=True, padding_value=NOTHING)


def largest(shapes: Int[ndarray, "item axes"]) -> tuple[tuple[int, ...], ...]:
    """Grids that others are no longer than: of sequences the longest, of pictures the widest of each height."""
    found: dict[tuple[int, ...], int] = {}
    for *others, last in shapes.tolist():
        found[tuple(others)] = max(last, found.get(tuple(others), 0))
    return tuple((*others, last) for others, last in found.items())


def part_of(codes: Int[ndarray, "codebook *grid"], longest: int, draw: np.random.Generator) -> ndarray:
    """All of it, or if its last axis is longer a part of that length."""
    if codes.shape[-1] <= longest:
        return codes
    start = int(draw.integers(codes.shape[-1] - longest + 1))
    return codes[..., start : start + longest]


class FirstRound(Dataset):
    """The batches of the first round over all items."""

    def __init__(self, batches: TokenBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches.buckets)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.batches.batch(number)
