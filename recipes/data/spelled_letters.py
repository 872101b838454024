"""Made-up speech with its text, at hand everywhere: each letter lasts as long as its own number of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from zoo.codecs.errors import UserError
from zoo.recipes.data.stream import BatchStream, ResumableDataModule

LETTERS = "abcd"


class SpelledLetters(ResumableDataModule):
    """Random words, and for each letter k of the alphabet k + 1 codes: 2 k, then 2 k + 1 until it ends.

    Batches hold `codes`, int64 `[batch, 1, time]`, -1 behind a row's end, `lengths` `[batch]` and `text`, strings. Each
    is a pure function of its number.

    Args:
        letters: Most letters of a word; it has at least one.
        batch_size: Words of a batch.
        valid_batches: Of validation.
        seed: Of the words.
        epoch_batches: Batches of an epoch.

    Raises:
        UserError: Words without letters, or batches without words.
    """

    codebook_sizes = (2 * len(LETTERS),)

    def __init__(
        self, letters: int = 4, batch_size: int = 8, valid_batches: int = 2, seed: int = 0, epoch_batches: int = 50
    ) -> None:
        super().__init__(epoch_batches, 0)
        if min(letters, batch_size) < 1:
            raise UserError(f"words of {letters} letters, {batch_size} in a batch; give 1 or more of both")
        self.letters, self.batch_size, self.valid_batches, self.seed = letters, batch_size, valid_batches, seed

    def make(self, number: int, valid: bool = False) -> dict[str, Any]:
        """Batch of that number."""
        random = np.random.default_rng((self.seed, valid, number))
        words = [
            random.integers(len(LETTERS), size=random.integers(1, self.letters + 1)) for _ in range(self.batch_size)
        ]
        sounds = self.sounds()
        spoken = [torch.cat([sounds[k] for k in word], 1) for word in words]
        widest = torch.zeros(*self.largest[0], len(spoken[0]))
        codes = pad_sequence([*(said.mT for said in spoken), widest.long()], batch_first=True, padding_value=-1)[:-1].mT
        lengths = torch.tensor([said.shape[1] for said in spoken])
        return {"codes": codes, "lengths": lengths, "text": ["".join(LETTERS[k] for k in word) for word in words]}

    @property
    def largest(self) -> tuple[tuple[int, ...], ...]:
        """The grid of the longest word; see `zoo.recipes.fitting.check_lengths`."""
        return ((self.letters * max(sound.shape[1] for sound in self.sounds()),),)

    def sounds(self) -> Sequence[Int[Tensor, "codebook time"]]:
        """Codes of each letter."""
        return [torch.tensor([[2 * k + (frame > 0) for frame in range(k + 1)]]) for k in range(len(LETTERS))]

    def train_stream(self, rank: int, ranks: int) -> BatchStream:
        return BatchStream(self.make, self.epoch_batches, rank, ranks)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([self.make(number, True) for number in range(self.valid_batches)], batch_size=None)
