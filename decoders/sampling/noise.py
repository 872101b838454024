"""Random numbers as a pure function of where they are used, so that nothing depends on batch, window or call order.

A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the place is hashed
by the finalizer of SplitMix64 (Steele et al., OOPSLA 2014) in wrapping 64-bit integers, the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD: Final = 2**64 - 1
# Odd words that tell apart tokens, rows, steps and codebooks: 2**64 over the golden ratio, and digits of pi behind it.
_TOKEN, _ROW, _STEP, _BOOK = 0x9E3779B97F4A7C15, 0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1


@dataclass(frozen=True)
class Noise:
    """Uniform and Gumbel numbers keyed by seed, row, absolute step, codebook, token and stream.

    Attributes:
        seed: Any integer.
        rows: For each row of a batch, the id that its numbers belong to; default 0, 1, ... So row 3 of a batch is drawn
            again alone by `Noise(seed, rows=(3,))`.
        stream: Names of this stream; streams of different names are independent. See `derive`.
        turns: See `in_turn`; None: steps have all codebooks.
    """

    seed: int
    rows: tuple[int, ...] | None = None
    stream: tuple[int, ...] = ()
    turns: tuple[int, int] | None = None

    def derive(self, *names: int) -> Noise:
        """Noise of the same seed and rows that is independent of this one's and of that of other names."""
        return replace(self, stream=self.stream + names)

    def in_turn(self, codebooks: int, first: int) -> Noise:
        """The same noise where a step has a single code: from step `first` on, that of each codebook in turn."""
        return replace(self, turns=(codebooks, first))

    def uniform(self, steps: Int[Tensor, "R S"], codebooks: int) -> Float[Tensor, "R S Q"]:
        """float64 in (0, 1), one for each codebook of each row's steps."""
        return _unit(_mix(self._places(steps, codebooks)))

    def gumbel(self, steps: Int[Tensor, "R S"], codebooks: int, vocabulary: int) -> Float[Tensor, "R S Q V"]:
        """float32 of the standard Gumbel law, one for each token: `(logp + gumbel).argmax(-1)` draws from `logp`.

        Logarithms are taken in float64, whose last bits differ between devices; float32 does not see them.
        """
        tokens = _multiples(_TOKEN, range(1, vocabulary + 1), steps.device)
        unit = _unit(_mix(self._places(steps, codebooks)[..., None] + tokens))
        # Of 1 - unit: fine where it is near 0, which is where rare tokens win.
        return unit.neg_().log1p_().neg_().log_().neg_().float()

    @cached_property
    def _key(self) -> int:
        key = 0
        for name in (len(self.stream), self.seed, *self.stream):
            key = _mixed((key ^ _mixed(name & _WORD)) + _TOKEN)
        return key

    def _places(self, steps: Tensor, codebooks: int) -> Tensor:
        """int64 `[R, S, Q]`: one well-mixed word for each place."""
        ids = range(len(steps)) if self.rows is None else self.rows
        if len(ids) != len(steps):
            raise ValueError(f"noise for {len(ids)} rows, asked for {len(steps)}; give `Noise` one id for each row")
        rows = _multiples(_ROW, ids, steps.device)
        places = (steps * _signed(_STEP) + rows[:, None])[..., None] + _signed(self._key)
        if self.turns is None:
            return _mix(places + _multiples(_BOOK, range(codebooks), steps.device))
        books = (steps - self.turns[1]) % self.turns[0]
        return _mix(places + (books * _signed(_BOOK))[..., None])


class Quiet(Noise):
    """No noise: the most probable token everywhere. For laws that leave nothing to chance."""

    def __init__(self) -> None:
        super().__init__(0)

    def derive(self, *names: int) -> Noise:
        return self

    def uniform(self, steps: Int[Tensor, "R S"], codebooks: int) -> Float[Tensor, "#R #S #Q"]:
        return torch.full((1, 1, 1), 0.5, dtype=torch.float64, device=steps.device)

    def gumbel(self, steps: Int[Tensor, "R S"], codebooks: int, vocabulary: int) -> Float[Tensor, "#R #S #Q #V"]:
        return torch.zeros((1, 1, 1, 1), device=steps.device)


class SlidingGumbel:
    """`Noise.gumbel` for windows that slide along: numbers of steps that came before are not made again.

    Each row's steps follow each other without gaps. Noise that is the same in all rounds is made for a window more than
    asked for, as many small pieces take longer than a few large ones; that of another stream is made anew.
    """

    def __init__(self) -> None:
        self._noise: Noise | None = None
        self._first: Int[Tensor, "R 1"]
        self._made: Float[Tensor, "R S Q V"]

    def __call__(
        self, noise: Noise, steps: Int[Tensor, "R S"], codebooks: int, vocabulary: int
    ) -> Float[Tensor, "#R #S #Q #V"]:
        if isinstance(noise, Quiet) or not steps.shape[1]:
            return noise.gumbel(steps, codebooks, vocabulary)
        wanted, again, kept = steps.shape[1], noise == self._noise, 0
        if again:
            moved = steps[:, :1] - self._first
            least, most = torch.stack(moved.aminmax()).tolist()
            behind = most if least == most else moved
            kept = self._made.shape[1] - most if least >= 0 else 0
        if kept < wanted:
            ahead = torch.arange(max(kept, 0), 2 * wanted if again else wanted, device=steps.device)
            made = noise.gumbel(steps[:, :1] + ahead, codebooks, vocabulary)
            if kept > 0:
                made = torch.cat((self._of(behind, kept), made), 1)
            self._noise, self._first, self._made = noise, steps[:, :1], made
            return made[:, :wanted]
        return self._of(behind, wanted)

    def _of(self, behind: int | Int[Tensor, "R 1"], count: int) -> Float[Tensor, "R S Q V"]:
        """So many steps, of each row from there on."""
        if isinstance(behind, int):  # without a copy
            return self._made[:, behind : behind + count]
        row = torch.arange(len(behind), device=behind.device)[:, None]
        return self._made[row, behind + torch.arange(count, device=behind.device)]


@lru_cache(maxsize=64)
def _multiples(word: int, times: Sequence[int], device: torch.device) -> Int[Tensor, "N"]:
    """The word that many times, made once: a round of decoding asks for noise several times."""
    with torch.inference_mode(False):  # what is made in that mode is refused elsewhere
        multiples = [_signed(word * number & _WORD) for number in times]
        return torch.tensor(multiples, dtype=torch.int64, device=device)


def _signed(word: int) -> int:
    """The same 64 bits as a signed number, as torch has them."""
    return word - 2**64 if word >> 63 else word


def _mixed(word: int) -> int:
    """`_mix` of one unsigned number."""
    word &= _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finalizer: every bit that goes in flips every bit that comes out with probability 1/2."""
    words = _shifted(words, 30).bitwise_xor_(words).mul_(_signed(0xBF58476D1CE4E5B9))
    words = _shifted(words, 27).bitwise_xor_(words).mul_(_signed(0x94D049BB133111EB))
    return _shifted(words, 31).bitwise_xor_(words)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in, which torch's shift of signed numbers does not give."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _unit(words: Tensor) -> Tensor:
    """float64 in (0, 1), both ends out: the middle of one of 2**52 equal parts."""
    return _shifted(words, 12).double().add_(0.5).mul_(2.0**-52)
