"""Proposers made of others: the draft of one or the other, for each row on its own."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.sampling.draft import Draft


def by_row(first: Bool[Tensor, "R"], a: Draft, b: Draft, room: Int[Tensor, "R"]) -> Draft:
    """A draft that is `a` in some rows and `b` in the others.

    If one of them is a tree, chains become trees; if one of them has laws, the nodes of the other are certain.

    Args:
        first: Where it is `a`.
        room: Of the context. Chains end where the loop would cut them if they were no trees.
    """
    slots = max(a.slots, b.slots)
    laws = a.logq if a.logq is not None else b.logq

    def of(x: Tensor, y: Tensor) -> Tensor:
        x, y = (pad(part, [0, 0] * (part.ndim - 2) + [0, slots - part.shape[1]]) for part in (x, y))
        return torch.where(first.view(-1, *[1] * (x.ndim - 1)), x, y)

    return Draft(
        of(a.tokens, b.tokens),
        torch.where(first, _count(a, room), _count(b, room)),
        None if a.parent is b.parent is None else of(_parent(a), _parent(b)),
        None if laws is None else of(_laws(a, laws.shape[-1]), _laws(b, laws.shape[-1])),
        a.forwards + b.forwards,
    )


def _count(draft: Draft, room: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
    return draft.count if draft.parent is not None else torch.minimum(draft.count, (room - 1).clamp(min=0))


def _parent(draft: Draft) -> Int[Tensor, "R N"]:
    if draft.parent is not None:
        return draft.parent
    return torch.arange(-1, draft.slots - 1, device=draft.count.device).expand(len(draft.count), -1)


def _laws(draft: Draft, vocabulary: int) -> Float[Tensor, "R N Q V"]:
    if draft.logq is not None:
        return draft.logq
    tokens = draft.tokens.clamp(0, vocabulary - 1)[..., None]
    certain = torch.full((*draft.tokens.shape, vocabulary), -torch.inf, device=tokens.device)
    return certain.scatter_(-1, tokens, 0.0)
