"""Tokens of all codebooks into one vector a slot, and hidden states into logits of each codebook."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from zoo.decoders.fast import ByteLinear, HalfLinear


class CodeEmbedding(nn.Module):
    """Sum of one vector for each codebook, and of learned positions if there are any.

    Args:
        cards: Tokens of each codebook.
        specials: Input-only ids behind each card.
        width: D.
        context: Learned positions of each axis; 0: none.
        axes: Coordinates of a position.
    """

    def __init__(self, cards: tuple[int, ...], specials: int, width: int, context: int = 0, axes: int = 1):
        super().__init__()
        self.cards = cards
        self.sizes = sizes = [card + specials for card in cards]
        self.table = nn.Embedding(sum(sizes), width)
        self.positions = nn.ModuleList(nn.Embedding(context, width) for _ in range(axes if context else 0))
        self.first: Tensor
        self.register_buffer("first", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.context = context
        for table in (self.table, *self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Int[Tensor, "R N Q"], positions: Int[Tensor, "R N *axes"]) -> Float[Tensor, "R N D"]:
        """
        Raises:
            ValueError: A position beyond the learned ones (looked at on a CPU only, where looking is free).
        """
        x = self.table(tokens[..., 0]) if len(self.first) == 1 else self.table(tokens + self.first).sum(2)
        if self.positions and positions.device.type == "cpu" and positions.max() >= self.context:
            raise ValueError(
                f"position {positions.max()} is beyond the context of {self.context}; give a shorter prompt"
            )
        for axis, table in enumerate(self.positions):
            x = x + table(positions if positions.ndim == 2 else positions[..., axis])
        return x


class CodeHeads(nn.Module):
    """Logits of each codebook, from one matrix.

    Args:
        cards: Tokens of each codebook.
        width: D.
        bias: Of the matrix.
        tied: The embedding whose table is the matrix, too; its input-only ids get no logits.
    """

    def __init__(self, cards: tuple[int, ...], width: int, bias: bool = False, tied: CodeEmbedding | None = None):
        super().__init__()
        self.cards = cards
        self.sizes = list(cards)
        if tied is not None:
            specials = (tied.table.num_embeddings - sum(cards)) // len(cards)
            self.sizes = [card + specials for card in cards]
        self.product = nn.Linear(width, sum(self.sizes), bias=bias)
        if tied is not None:
            self.product.weight = tied.table.weight
        else:
            nn.init.normal_(self.product.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.product.bias)

    def forward(self, hidden: Float[Tensor, "R N D"]) -> Float[Tensor, "R N Q V"]:
        """float32; -inf behind the card of a codebook smaller than the largest."""
        logits = self.product(hidden).float()
        if len(set(self.cards)) == 1:
            return logits.unflatten(-1, (len(self.cards), -1))[..., : self.cards[0]]
        parts = [part[..., :card] for part, card in zip(logits.split(self.sizes, -1), self.cards, strict=True)]
        return torch.stack([lengthened(part, max(self.cards)) for part in parts], -2)

    def of(self, hidden: Float[Tensor, "R N D"], books: Int[Tensor, "R N"]) -> Float[Tensor, "R N V"]:
        """`forward` of a single codebook for each slot, without the work for all others."""
        asked, order = books.flatten().sort()
        slots = hidden.flatten(0, 1)[order].split(asked.bincount(minlength=len(self.cards)).tolist())
        parts, last = [], 0
        for part, card, size in zip(slots, self.cards, self.sizes, strict=True):
            first, last = last, last + size
            if len(part):
                parts.append(lengthened(self._rows(part, first, last)[:, :card].float(), max(self.cards)))
        logits = torch.cat(parts)
        logits = torch.empty_like(logits).index_copy(0, order, logits)
        return logits.unflatten(0, hidden.shape[:2])

    def _rows(self, x: Float[Tensor, "M D"], first: int, last: int) -> Float[Tensor, "M size"]:
        """The product with these rows of the matrix."""
        if isinstance(self.product, HalfLinear | ByteLinear):
            return self.product.rows(x, first, last)
        bias = self.product.bias
        return linear(x, self.product.weight[first:last], None if bias is None else bias[first:last])


def lengthened(logits: Float[Tensor, "*rows card"], vocabulary: int) -> Float[Tensor, "*rows V"]:
    """Logits of a codebook beside those of larger ones: tokens behind its card are impossible."""
    return pad(logits, (0, vocabulary - logits.shape[-1]), value=float("-inf"))
