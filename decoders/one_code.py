"""Decoders of a layout that has one code a step, seen as decoders of one codebook: there is nothing else to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.layouts import Flat, Layout
from zoo.decoders.layouts.base import Shape, Special
from zoo.decoders.state import State


class OneCode(TokenModel):
    """A decoder of the layout `Flat`, whose steps have padding in the slots of all codebooks but one.

    Laws, noise and verdicts are then of the code that is free, a quarter of the work with four codebooks. A step is
    that code's id; input-only ids stand behind the largest card.

    Args:
        model: Causal, of the layout's cards.
        layout: Without an end token, which is told by its codebook.

    Raises:
        ValueError: Another layout or model.
    """

    def __init__(self, model: TokenModel, layout: Layout):
        super().__init__()
        info = model.info
        if not has_one_code(layout) or info.cards != layout.cards or not info.causal or info.depth:
            raise ValueError(
                f"a model of {info.cards} and {layout}: give a causal one of the same cards, and Flat without end"
            )
        self.model, self.layout = model, layout
        self.training = model.training
        self._info = replace(info, cards=(max(info.cards),))
        self.cards: Tensor
        self.register_buffer("cards", torch.tensor(info.cards), persistent=False)

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Any = None) -> State:
        return self.model.init_state(rows, max_steps, cond)

    def run(
        self,
        tokens: Int[Tensor, "R N 1"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        books, card = len(self.cards), self.info.vocabulary
        book = positions[..., -1] if self.info.axes > 1 else (positions - int(self.layout.begin)) % books
        cards = self.cards.to(tokens.device)
        wide = (cards + Special.PAD).expand(*tokens.shape[:2], -1).scatter(2, book[..., None], tokens)
        wide = torch.where(tokens < card, wide, cards + tokens - card)
        after = torch.where(tokens[..., 0] < card, (book + 1) % books, 0)
        return self.model.run_one(after, wide, positions, state, block_mask)


def has_one_code(layout: Layout) -> bool:
    """Whether its steps are those of `OneCode`."""
    return isinstance(layout, Flat) and len(layout.sizes) > 1 and not layout.end


def code_of(layout: Layout, tokens: Int[Tensor, "*rows N S"], shape: Shape) -> Int[Tensor, "*rows N 1"]:
    """The free code of each of the first steps; of structure, its id in `OneCode`.

    Args:
        tokens: -1 where none is known.
    """
    places = layout.coords(shape)[: tokens.shape[-2]].to(tokens.device)
    cards = torch.tensor(layout.cards, device=tokens.device)
    book = (places >= 0).int().argmax(-1, keepdim=True)  # of structure, the first
    found = tokens.gather(-1, book.expand(*tokens.shape[:-1], 1))
    structure = (places < 0).all(-1, keepdim=True)
    return torch.where(structure & (found >= 0), found - cards[0] + cards.max(), found)
