"""Masked models small enough to enumerate, one chooser of each kind, and a view of one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from toys import Toy

from zoo.decoders.base import Output
from zoo.decoders.sampling import Law, Noise, choosers
from zoo.decoders.sampling.choosers import Chooser, Filter, Judge, View


class Shifted(Toy):
    """A causal toy as a masked model: at each place the law of what stands there, given all places before it."""

    def run(self, tokens: Tensor, positions: Tensor, state: Any, block_mask: Tensor | None) -> Output:
        begin = torch.ones_like(tokens[:, :1])
        output = super().run(torch.cat((begin, tokens[:, :-1]), 1), positions, state, block_mask)
        return Output(output.logits, output.hidden)


def every_chooser(cards: tuple[int, ...] = (3,)) -> dict[str, Chooser]:
    """One of each kind, with settings at which it does something with small random models."""
    torch.manual_seed(0)
    network = Filter(reach=3).eval()
    torch.nn.init.normal_(network.final.bias, std=0.1)
    filling_in, in_a_line = Toy(cards, seed=7, causal=False), Toy(cards, seed=8)
    return {
        "confidence": choosers.Confidence(),
        "annealed": choosers.Confidence(4.5),
        "entropy": choosers.Entropy(),
        "margin": choosers.Margin(),
        "random": choosers.Shuffled(),
        "left-to-right": choosers.LeftToRight(),
        "halton": choosers.Halton(),
        "spans": choosers.Spans(2, order=choosers.Confidence(1.0)),
        "remask": choosers.Remask(0.5),
        "rescored": choosers.Rescored(Judge(filling_in), temperature=1.0),
        "rescored in a line": choosers.Rescored(Judge(in_a_line, begin=1)),
        "threshold": choosers.Threshold(0.6),
        "local-leap": choosers.LocalLeap(0.6, 0.4, 2),
        "prophet": choosers.Prophet(1.0),
        "adaptive": choosers.Adaptive(Judge(in_a_line)),
        "learned": choosers.Learned(network, 0.5),
    }


def view_of(logits: Tensor, open: Tensor | None = None, **others: Any) -> View:
    """One step in which the most probable tokens are candidates, of a row with so many `[R, S, Q, V]` logits."""
    rows, places, books, _ = logits.shape
    open = torch.ones(rows, places, books, dtype=torch.bool) if open is None else open
    best = logits.argmax(-1)
    values: dict[str, Any] = {
        "tokens": best.masked_fill(open, logits.shape[-1]),
        "inside": torch.ones(rows, places, dtype=torch.bool),
        "positions": None,
        "candidates": best,
        "open": open,
        "filled": torch.zeros_like(open),
        "level": torch.ones(books, dtype=torch.bool),
        "left": open.flatten(1).sum(1) - 1,
        "logits": logits,
        "law": Law(),
        "logp": logits.log_softmax(-1),
        "gumbel": torch.zeros(1, 1, 1, 1),
        "confidence": logits.log_softmax(-1).amax(-1),
        "hidden": torch.zeros(rows, places, 1),
        "progress": 0.5,
        "noise": Noise(0, rows=tuple(range(rows))),
    }
    return View(**values | others)


def certain(*probabilities: float, vocabulary: int = 2) -> Tensor:
    """Logits `[1, S, 1, V]` of places whose first token has that probability, and all others share the rest."""
    p = torch.tensor(probabilities)[:, None]
    rest = ((1 - p) / (vocabulary - 1)).expand(-1, vocabulary - 1)
    return torch.cat((p, rest), 1).log()[None, :, None]
