"""Diverse beam search: groups of beams, each of which keeps away from what those before it chose."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.search.beam import Choice, best_steps, going_on, one_at_a_time, search
from zoo.decoders.sampling.search.candidates import Ranked
from zoo.decoders.sampling.search.paths import Paths


def diverse_beam_search(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    width: int = 4,
    groups: int = 2,
    diversity: float = 0.5,
    law: Law | None = None,
    *,
    length_penalty: float = 1.0,
    patience: float | None = None,
    **options: Any,
) -> Ranked:
    """As `beam_search`, in groups that are searched one behind the other in each step.

    Vijayakumar et al., "Diverse Beam Search" (arXiv 1610.02424), with the Hamming distance: in the choice alone,
    `diversity` is taken off a token's log-probability for each of the best paths of earlier groups that has it at this
    step. Scores are those of `beam_search`. What ends is put aside in each group by itself, so that the candidates are
    the best width / groups of each.

    Exactness: approximate. Cost: that of `beam_search` of this width.

    Args:
        groups: Into which the width is divided, evenly; 1 is beam search.
        diversity: In nats, 0 or more. 0: every group finds the same.

    Raises:
        ValueError: A width that groups don't divide, a negative diversity; as `beam_search`.
    """
    if groups < 1 or width % groups or diversity < 0:
        raise ValueError(
            f"{groups} groups of {width} paths, and a diversity of {diversity}; expected groups that divide the paths,"
            " and 0 or more"
        )
    paths = Paths(one_at_a_time(model), prompt, steps, law, width, **options)
    return search(paths, _Apart(groups, diversity), groups, length_penalty, patience)


class _Apart:
    """The most probable ones of each group, without what the groups before it chose."""

    def __init__(self, groups: int, diversity: float):
        self.groups, self.diversity = groups, diversity

    def choose(self, score: Tensor, logp: Tensor, ending: Tensor) -> tuple[Choice, Choice]:
        chosen = torch.zeros_like(logp[:: self.groups, 0])
        best, going = [], []
        for group in range(self.groups):
            part = slice(group, None, self.groups)
            malus = self.diversity * chosen
            best.append(best_steps(score[part], logp[part], malus))
            going.append(best_steps(score[part], going_on(logp[part], ending[part]), malus))
            there_is = torch.isfinite(best[-1].score).to(chosen.dtype)
            for tokens, there in zip(best[-1].tokens.unbind(1), there_is.unbind(1), strict=True):
                chosen = chosen.scatter_add(2, tokens[..., None], there[:, None, None].expand(-1, tokens.shape[1], 1))
        return _woven(best), _woven(going)


def _woven(choices: list[Choice]) -> Choice:
    """Of one choice for each group, those of each row's groups side by side."""
    return Choice(*(torch.stack(parts, 1).flatten(0, 1) for parts in zip(*choices, strict=True)))
