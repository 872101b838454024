"""One pass, many places, few tokens: equal neighbours are one token, and a place may stay blank.

Libovicky and Helcl, "End-to-End Non-Autoregressive Neural Machine Translation with Connectionist Temporal
Classification" (arXiv 1811.04719); Gu and Kong, "Fully Non-autoregressive Neural Machine Translation: Tricks of the
Trade" (arXiv 2012.15833); the loss sums over all ways to place the tokens (Graves et al., ICML 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from zoo.decoders.conditioning import Conditions
from zoo.decoders.parallel import ParallelConfig, ParallelDecoder, drawn, in_line, inside
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Recorder, Result


@dataclass(frozen=True, kw_only=True)
class CTCConfig(ParallelConfig):
    """Shape of a CTC decoder: one codebook, whose card counts the blank, the last of its tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.cards) != 1 or self.cards[0] < 2:
            raise ValueError(f"cards {self.cards}: CTC places codes of one codebook, and a blank; flatten others")


class CTCDecoder(ParallelDecoder):
    """A parallel decoder whose places, read from left to right, spell the tokens.

    Attributes:
        blank: Its id.
    """

    config_class: ClassVar[type[CTCConfig]] = CTCConfig

    def __init__(self, config: CTCConfig):
        super().__init__(config)
        self.blank = config.cards[0] - 1

    def nats(self, codes: Int[Tensor, "R S 1"], cond: Conditions) -> Float[Tensor, "R"]:
        state = self.init_state(len(codes), 0, cond)
        logp = self.fill(state).logits[:, :, 0].log_softmax(-1)
        return ctc_nats(logp, self.places(state), codes[..., 0], (codes[..., 0] >= 0).sum(1))

    @torch.no_grad()
    def generate(self, cond: Conditions, law: Law | None = None, noise: Noise | None = None) -> Result:
        rows = len(next(iter(cond.given.values())))
        recorder, state = Recorder(rows), self.init_state(rows, 0, cond)
        tokens, logp = drawn(self.fill(state).logits, law, noise)
        return in_line(tokens, logp, begins(tokens[..., 0], self.places(state), self.blank), recorder)

    @torch.no_grad()
    def search(self, cond: Conditions, beam: int = 8) -> Int[Tensor, "R S 1"]:
        """The most probable codes that `prefix_beam` finds, -1 behind each row's end."""
        state = self.init_state(len(next(iter(cond.given.values()))), 0, cond)
        laws = self.fill(state).logits[:, :, 0].log_softmax(-1)
        found = [prefix_beam(law[:places], beam)[0] for law, places in zip(laws, self.places(state), strict=True)]
        rows = [torch.tensor(codes, dtype=torch.int64, device=laws.device) for codes in found]
        return pad_sequence(rows, batch_first=True, padding_value=-1)[..., None]


def ctc_nats(
    logp: Float[Tensor, "R N V"], places: Int[Tensor, "R"], codes: Int[Tensor, "R S"], lengths: Int[Tensor, "R"]
) -> Float[Tensor, "R"]:
    """Minus the log-probability that the places spell the codes; infinite, without gradient, where they are too few.

    Args:
        logp: float32, the law of each place; its last token is the blank.
        places: Of each row.
        lengths: Codes of each row.
    """
    nats = ctc_loss(
        logp.transpose(0, 1), codes.clamp(min=0), places, lengths, logp.shape[2] - 1, "none", zero_infinity=True
    )
    within = inside(lengths, codes.shape[1])[:, 1:]
    repeats = ((codes[:, 1:] == codes[:, :-1]) & within).sum(1)  # each needs a blank between
    return nats.masked_fill(places < lengths + repeats, torch.inf)


def begins(tokens: Int[Tensor, "R N"], places: Int[Tensor, "R"], blank: int) -> Bool[Tensor, "R N"]:
    """Places at which a token begins: no blank, and another than that of the place before."""
    changes = torch.ones_like(tokens, dtype=torch.bool)
    changes[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    return changes & (tokens != blank) & inside(places, tokens.shape[1])


def prefix_beam(logp: Float[Tensor, "N V"], beam: int) -> tuple[tuple[int, ...], float]:
    """Codes whose placings are together the most probable, and their log-probability, as far as a beam sees.

    A prefix's placings that end with a blank and those that end with its last token are summed apart, as only behind
    the former the same token begins anew (Hannun et al., arXiv 1408.2873).

    Args:
        logp: Of one row; its last token is the blank.
        beam: Prefixes that are kept behind each place.
    """
    blank = logp.shape[1] - 1
    kept: dict[tuple[int, ...], tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # ends with a blank, ends with its last token
    for law in logp.double().tolist():
        grown: dict[tuple[int, ...], list[list[float]]] = {}
        for prefix, (closed, open) in kept.items():
            either = _sum([closed, open])
            stays = grown.setdefault(prefix, [[], []])
            stays[0].append(either + law[blank])
            if prefix:
                stays[1].append(open + law[prefix[-1]])
            for token in range(blank):
                before = closed if prefix and token == prefix[-1] else either
                grown.setdefault((*prefix, token), [[], []])[1].append(before + law[token])
        summed = {prefix: (_sum(closed), _sum(open)) for prefix, (closed, open) in grown.items()}
        best = sorted(summed, key=lambda prefix: _sum(list(summed[prefix])), reverse=True)[:beam]
        kept = {prefix: summed[prefix] for prefix in best}
    first = max(kept, key=lambda prefix: _sum(list(kept[prefix])))
    return first, _sum(list(kept[first]))


def _sum(logs: list[float]) -> float:
    """Of probabilities, in logarithms."""
    top = max(logs, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(log - top) for log in logs))
