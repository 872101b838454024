"""Decoders that fill in what is masked, the codes that training hides from them, and their loss.

| model | config | training hides |
|---|---|---|
| MaskGIT (Chang et al., arXiv 2202.04200) | positions of two axes | `Masking(cards)` |
| SoundStorm (Borsos et al., arXiv 2305.09636) | | `Masking(cards, by_level=True, prompt=True)` |
| MAGNeT (Ziv et al., arXiv 2401.04577) | `windows=(0, 5, ...)` | `Masking(cards, by_level=True, span=3)` |
| MobileSpeech (Ji et al., arXiv 2402.09378) | told text and a speech prompt | SoundStorm's, `levels=(2, 1, ...)` |
| LLaDA (Nie et al., arXiv 2502.09992) | one codebook | `Masking(cards, schedule="linear")`, loss of `bound=True` |

All are sampled by `decode_masked`; by level with as many steps for each codebook, spans with the chooser `Spans`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool1d, pad

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import Output
from zoo.decoders.state import State


@dataclass(frozen=True)
class MaskedConfig(AutoregressiveConfig):
    """Shape of a masked decoder: that of an autoregressive one, whose transformer is not causal.

    A row's level is its first codebook that has a masked place: the one being filled, if that is done level by level.

    Attributes:
        specials: Input-only ids behind each card; the first one is the mask.
        learned_positions: On by default: where all is masked, all places look the same to rotary positions, which tell
            distances alone.
        windows: For each level, how far a place sees to either side (restricted context, MAGNeT), in each axis of its
            position; 0: everything. (): everything at all levels.
        levels: Each place is told the level, by a vector of its own.
    """

    specials: int = 1
    learned_positions: bool = True
    windows: tuple[int, ...] = ()
    levels: bool = False

    def __post_init__(self) -> None:
        if self.transformer.causal or self.specials < 1:
            raise ValueError("a masked decoder is not causal and has a mask token; take causal=False, specials=1")
        if len(self.windows) not in (0, len(self.cards)) or min(self.windows, default=0) < 0:
            raise ValueError(f"windows {self.windows} for {len(self.cards)} codebooks; give each one, 0 for everything")


class MaskedDecoder(AutoregressiveDecoder):
    """The parts of the autoregressive decoder, run both ways: logits at a place are the law of what stands there."""

    config_class: ClassVar[type[AutoregressiveConfig]] = MaskedConfig

    def __init__(self, config: MaskedConfig):
        super().__init__(config)
        self.windows: Tensor
        self.register_buffer("windows", torch.tensor(config.windows, dtype=torch.int64), persistent=False)
        self.masks: Tensor
        self.register_buffer("masks", torch.tensor(config.cards), persistent=False)
        self.levels = nn.Embedding(len(config.cards), config.transformer.width) if config.levels else None
        if self.levels is not None:
            nn.init.normal_(self.levels.weight, std=0.02)
        self._info = replace(self._info, parameters=sum(parameter.numel() for parameter in self.parameters()))

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
        depths: Iterable[int] | None = None,
    ) -> Output:
        x = self.embedding(tokens, positions)
        level = (tokens == self.masks).any(1).int().argmax(1)
        if self.levels is not None:
            x = x + self.levels(level)[:, None]
        if len(self.windows):
            near = self._near(positions, self.windows[level])
            block_mask = near if block_mask is None else near & block_mask
        hidden, _ = self.transformer(x, positions, state, block_mask, depths)
        return Output(self.heads(hidden), hidden)

    def _near(self, positions: Int[Tensor, "R N *axes"], window: Int[Tensor, "R"]) -> Bool[Tensor, "R N N"]:
        places = positions.reshape(*positions.shape[:2], -1)
        distance = (places[:, :, None] - places[:, None]).abs().amax(-1)
        return (distance <= window[:, None, None]) | (window == 0)[:, None, None]


class Hidden(NamedTuple):
    """A training example of a masked decoder.

    Attributes:
        inputs: int64 `[R, S, Q]`: codes, the mask (each codebook's card) where they are hidden, 0 where none are.
        targets: int64 `[R, S, Q]`: the codes to be found, -1 elsewhere.
        visible: bool `[R, S, S]`, the block mask that keeps places without codes out of sight.
        finer: int64 `[R, S, Q]`: by level, the codes of finer codebooks, which are masked, too; -1 elsewhere.
    """

    inputs: Int[Tensor, "R S Q"]
    targets: Int[Tensor, "R S Q"]
    visible: Bool[Tensor, "R S S"]
    finer: Int[Tensor, "R S Q"]


@dataclass(frozen=True)
class Masking:
    """Which codes training hides.

    Attributes:
        cards: Tokens of each codebook.
        by_level: Of one random codebook in each row, while coarser ones are there and finer ones are masked; else of
            all codebooks at once.
        levels: How often which codebook is that one, against each other; (): all as often.
        first: The coarsest codebook that is hidden; those before it are always there.
        schedule: What share: the cosine of a random quarter turn (MaskGIT), a uniform one ("linear"), or all.
        span: Codes are hidden in runs of so many, which may overlap (MAGNeT). The share is then reached by whole runs.
        prompt: Places before a random one are always there, with all their codebooks.
    """

    cards: tuple[int, ...]
    by_level: bool = False
    levels: tuple[float, ...] = ()
    first: int = 0
    schedule: Literal["cosine", "linear", "all"] = "cosine"
    span: int = 1
    prompt: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.first < len(self.cards) or self.span < 1:
            raise ValueError(f"first codebook {self.first} of {len(self.cards)}, spans of {self.span}: nothing to hide")
        if self.levels and not self.by_level:
            raise ValueError(f"levels {self.levels} tell how often each is hidden by itself; say by_level, too")
        if self.levels and (
            len(self.levels) != len(self.cards) or min(self.levels) < 0 or sum(self.levels[self.first :]) <= 0
        ):
            raise ValueError(
                f"levels {self.levels} of {len(self.cards)} codebooks; give each one how often it is hidden"
            )

    def mask_for_training(self, codes: Int[Tensor, "R S Q"], generator: torch.Generator) -> Hidden:
        """Hide codes; at least one in each row that has any.

        Args:
            codes: int64, -1 in places behind a row's end.
            generator: On the CPU; what is drawn doesn't depend on the codes' device.

        Raises:
            ValueError: Another number of codebooks.
        """
        rows, places, books = codes.shape
        if books != len(self.cards):
            raise ValueError(f"codes {list(codes.shape)}; expected [rows, places, {len(self.cards)} codebooks]")

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).to(codes.device)

        there = codes >= 0
        book, place = torch.arange(books, device=codes.device), torch.arange(places, device=codes.device)
        open = there & (book >= self.first)
        if self.prompt:
            begin = (draw(rows) * there[..., 0].sum(1)).long()
            open = open & (place >= begin[:, None])[..., None]
        asked = open
        if self.by_level:
            often = torch.tensor(self.levels or (1.0,) * books, device=codes.device)[self.first :].cumsum(0)
            level = self.first + torch.searchsorted(often / often[-1], draw(rows), right=True)
            asked = open & (book == level[:, None])[:, None]
        turn = draw(rows)
        share = {"cosine": (turn * math.pi / 2).cos(), "linear": 1 - turn, "all": torch.ones_like(turn)}[self.schedule]
        hidden = self._chosen(asked, share, draw(rows, places, books))
        masked = hidden | (open & (book > level[:, None])[:, None]) if self.by_level else hidden
        inputs = torch.where(masked, torch.tensor(self.cards, device=codes.device), codes.clamp(min=0))
        visible = there[:, None, :, 0].expand(-1, places, -1)
        return Hidden(inputs, codes.where(hidden, -1), visible, codes.where(masked & ~hidden, -1))

    def _chosen(
        self, asked: Bool[Tensor, "R S Q"], share: Float[Tensor, "R"], turn: Float[Tensor, "R S Q"]
    ) -> Bool[Tensor, "R S Q"]:
        """That share of what is asked for, in whole runs: run after run, in the random order of their first places."""
        turn = turn.masked_fill(~asked, torch.inf)
        runs = pad(-turn.transpose(1, 2), (self.span - 1, 0), value=-torch.inf)
        first_hit = -max_pool1d(runs, self.span, stride=1).transpose(1, 2)
        first_hit = first_hit.masked_fill(~asked, torch.inf)
        count = (share * asked.flatten(1).sum(1)).ceil().long().clamp(min=1)
        last = first_hit.flatten(1).sort(1).values.gather(1, count[:, None] - 1)
        return asked & (first_hit <= last[..., None])


def masked_loss(
    logits: Float[Tensor, "R S Q V"], targets: Int[Tensor, "R S Q"], bound: bool = False
) -> Float[Tensor, ""]:
    """Cross-entropy of the hidden codes, nats each.

    Args:
        targets: -1 where nothing is asked.
        bound: First the mean of each row, then of the rows. Under `schedule="linear"` and for rows of one length this
            is LLaDA's upper bound of the negative log-likelihood of a code. Else all hidden codes count the same.
    """
    each = cross_entropy(logits.permute(0, 3, 1, 2), targets, ignore_index=-1, reduction="none").flatten(1)
    asked = (targets >= 0).flatten(1)
    if not bound:
        return each.sum() / asked.sum().clamp(min=1)
    any_asked = asked.any(1)
    return (each.sum(1) / asked.sum(1).clamp(min=1)).sum() / any_asked.sum().clamp(min=1)
