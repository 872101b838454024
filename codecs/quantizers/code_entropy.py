"""Entropies of soft choices of codes, for losses that want each choice certain and all codes in use; in nats."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def entropies_of_choices(logits: Float[Tensor, "vector size"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of `softmax(logits)`, and the entropy of its mean over all vectors; 0 if there is no vector."""
    logs = logits.log_softmax(dim=1)
    shares, count = logs.exp(), max(1, len(logits))
    return -(shares * logs).sum() / count, _entropy(shares.sum(dim=0) / count)


def entropies_of_bits(
    logits: Float[Tensor, "vector bit"], group: int | None = None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The same for codes of independent bits with these log-odds: all `2 ** bits` codes count, but are never listed.

    The mean over all vectors is that of an outer product over bits. It is one matrix product of the joint shares of
    the first and of the second half of the bits, so that memory grows with the square root of the number of codes.

    Args:
        logits: Logarithm of the odds that a bit is set.
        group: Take the second entropy as the sum of those of so many bits each. That is an upper bound which does not
            see how groups depend on each other; its time grows with `2 ** group` and not with `2 ** bits`. None: exact.
    """
    count, certainty = max(1, len(logits)), logits.abs()
    own = functional.softplus(-certainty) + certainty * torch.sigmoid(-certainty)
    together = [_mean_entropy(part) for part in torch.sigmoid(logits).split(group or logits.shape[1], dim=1)]
    return own.sum() / count, torch.stack(together).sum()


def _mean_entropy(shares: Float[Tensor, "vector bit"]) -> Float[Tensor, ""]:
    half = shares.shape[1] // 2
    first, second = _joint(shares[:, :half]), _joint(shares[:, half:])
    return _entropy(first.T @ second / max(1, len(shares)))


def _joint(shares: Float[Tensor, "vector bit"]) -> Float[Tensor, "vector size"]:
    """Shares of all values of a few bits."""
    joint = shares.new_ones(len(shares), 1)
    for share in shares.unbind(dim=1):
        joint = torch.cat([joint * (1 - share)[:, None], joint * share[:, None]], dim=1)
    return joint


def _entropy(shares: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """With a finite gradient where a share is 0."""
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum()
