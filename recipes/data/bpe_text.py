"""A text corpus in the tokens of a byte-level BPE that is trained on it: tokenized once, then read as windows.

Beside a corpus of `zoo.recipes.data.byte_text`, the folder `bpe-SIZE` gets `vocabulary.json`, `SPLIT.tokens` (uint16,
little-endian: the tokens of each document and then the vocabulary's end), and `recipe.json`, which says what they were
made of. They are made again when the corpus has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile
from zoo.recipes.data.byte_text import INDEX, ByteCorpus, ByteText, Windows
from zoo.recipes.data.stream import BatchStream
from zoo.vocabulary import Vocabulary, train_bpe

TOKEN = np.dtype("<u2")
SPLITS = ("train", "valid", "test")

_log = logging.getLogger(__name__)


class TokenCorpus:
    """One split of a tokenized corpus as one run of tokens, memory-mapped."""

    def __init__(self, folder: Path, split: str) -> None:
        self._tokens = np.memmap(folder / f"{split}.tokens", TOKEN, "r")

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, start: int, count: int) -> Int64[ndarray, "count"]:
        """Tokens from one place on; behind the last comes the first again."""
        return self._tokens[np.arange(start, start + count) % len(self)].astype(np.int64)


def tokenized(folder: Path, card: int) -> Path:
    """The folder of a corpus' tokens, made if it is not there or of another corpus.

    Raises:
        UserError: There is no corpus, or no room for the tokens in 16 bits.
    """
    if card > 65536:
        raise UserError(f"tokens are stored in 16 bits; {card} are too many, ask for 65536 or fewer")
    out, digest = folder / f"bpe-{card}", _digest(folder)
    recipe = out / "recipe.json"
    if recipe.is_file() and json.loads(recipe.read_text())["corpus"] == digest:
        return out
    _log.info("training a BPE of %d tokens on %s and tokenizing it", card, folder)
    out.mkdir(exist_ok=True)
    recipe.unlink(missing_ok=True)  # written last: without it, nothing here counts
    texts = _texts(ByteCorpus(folder, "train"))
    try:
        vocabulary = train_bpe(texts, card)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    counts = {}
    for split in SPLITS:
        texts = texts if split == "train" else _texts(ByteCorpus(folder, split))
        tokens = [np.array([*vocabulary.encode(text), vocabulary.end], TOKEN) for text in texts]
        counts[split] = sum(map(len, tokens))
        _write(out / f"{split}.tokens", np.concatenate(tokens).tobytes())
    _write(out / "vocabulary.json", vocabulary.content.encode())
    facts = {"corpus": digest, "card": card, "tokens": counts}
    _write(recipe, (json.dumps(facts, indent=1) + "\n").encode())
    return out


class BPEText(ByteText):
    """Windows of a text corpus in BPE tokens: `{"codes": int64 [batch, 1, length], "lengths": int64 [batch]}`.

    As `ByteText`, besides:

    Args:
        card: Tokens of the vocabulary, the end of a document among them.
        short_batches: The first so many batches (of all devices together) are cut into shorter windows: the same tokens
            in the same order, in `parts` times as many rows. Attention is cheaper, and early on distant context is of
            no use yet (Press et al., "Shortformer", arXiv 2012.15832).
        parts: Of each of these windows.
    """

    def __init__(
        self,
        folder: str = "data/text",
        card: int = 4096,
        length: int = 1024,
        batch_size: int = 2,
        short_batches: int = 0,
        parts: int = 4,
        valid_windows: int = 64,
        seed: int = 0,
        epoch_batches: int = 500,
        workers: int = 0,
    ) -> None:
        super().__init__(folder, length, batch_size, valid_windows, seed, epoch_batches, workers)
        if short_batches and length % parts:
            raise UserError(f"windows of {length} tokens can't be cut into {parts} equal parts; choose a divisor")
        self.card, self.short_batches, self.parts = card, short_batches, parts
        self.codebook_sizes = (card,)

    def prepare_data(self) -> None:
        """Make the tokens, once for all processes."""
        tokenized(Path(self.folder), self.card)

    def setup(self, stage: str) -> None:
        """See `ByteText.setup`."""
        if self._valid is None:
            folder = tokenized(Path(self.folder), self.card)
            self.vocabulary = Vocabulary((folder / "vocabulary.json").read_text(encoding="utf-8"))
            self._train, self._valid = (
                Windows(TokenCorpus(folder, split), self.length, self.batch_size, self.seed)
                for split in ("train", "valid")
            )

    def train_stream(self, rank: int, ranks: int) -> BatchStream:
        """See `ResumableDataModule.train_stream`."""
        return BatchStream(self.batch, self.epoch_batches, rank, ranks)

    def batch(self, number: int) -> dict[str, Any]:
        """Training batch `number`."""
        assert self._train is not None, "setup comes first"
        batch = self._train.batch(number)
        if number >= self.short_batches:
            return batch
        codes = batch["codes"].view(-1, 1, self.length // self.parts)
        return {"codes": codes, "lengths": batch["lengths"].new_full((len(codes),), codes.shape[2])}


def _texts(corpus: ByteCorpus) -> list[str]:
    return [corpus.document(number).decode() for number in range(len(corpus.names))]


def _digest(folder: Path) -> str:
    """Of all bytes of a corpus and of how they part into documents."""
    files = [folder / INDEX, *sorted(folder.glob("*-*.bytes"))]
    if not files[0].is_file():
        ByteCorpus(folder, "train")  # says what is missing
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with AtomicFile(path) as file:
        file.write(content)
