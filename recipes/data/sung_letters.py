"""Made-up song with its text, in the codes of a codec: what a smoke run makes of a text can be heard."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.recipes.data.spelled_letters import LETTERS, SpelledLetters
from zoo.registry import load_codec

LOWEST = 220.0  # Hz, of the first letter
STEP = 4  # semitones from one letter to the next


class SungLetters(SpelledLetters):
    """Random words, each letter of which is a tone: letter k lasts k + 1 beats, and is the higher, the larger k is.

    Batches are those of `SpelledLetters`, of as many codebooks as asked for. A letter is encoded by itself, so that it
    has the same codes in every word.

    Args:
        letters, batch_size, valid_batches, seed, epoch_batches: See `SpelledLetters`.
        codec: Name or directory of the codec.
        codebooks: Of its codes, so many, the first ones.
        beat: In frames of the codec.
    """

    def __init__(
        self,
        letters: int = 3,
        batch_size: int = 8,
        valid_batches: int = 2,
        seed: int = 0,
        epoch_batches: int = 50,
        codec: str = "spectral.speech-16khz",
        codebooks: int = 2,
        beat: int = 3,
    ) -> None:
        super().__init__(letters, batch_size, valid_batches, seed, epoch_batches)
        self.codec, self.codebooks, self.beat = codec, codebooks, beat
        self.weights = ""
        self._sounds: list[Int[Tensor, "codebook time"]] = []

    def setup(self, stage: str) -> None:
        """Sing the letters."""
        if self._sounds:
            return
        codec = load_codec(self.codec)
        info = codec.info
        for k in range(len(LETTERS)):
            time = torch.arange((k + 1) * self.beat * info.hop) / info.sample_rate
            tone = 0.3 * torch.sin(2 * math.pi * LOWEST * 2 ** (STEP * k / 12) * time)
            self._sounds.append(codec.encode(tone.expand(1, info.channels, -1), self.codebooks).codes[0])
        self.weights, self.codebook_sizes = codec.weights, info.codebook_sizes[: self.codebooks]

    def sounds(self) -> Sequence[Int[Tensor, "codebook time"]]:
        """Codes of each letter."""
        assert self._sounds, "setup comes first"
        return self._sounds
