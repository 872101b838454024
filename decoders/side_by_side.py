"""Several models as one: each reads a stream of its own, in step with the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.state import State


class SideBySide(TokenModel):
    """One model for each stream of a law, such as an expert and an amateur.

    Li et al., "Contrastive Decoding" (arXiv 2210.15097): `decode(SideBySide(expert, amateur), torch.cat((prompt,
    prompt)), steps, Law(streams=(1.0, -1.0), plausible=0.1))`. The rows of a block are those of the first model, then
    those of the second, and so on, as many of each; so are their conditions. Drafts and trees go through all of them.

    Cost: one forward pass of each model.

    Args:
        models: Of the same cards, context by context; the first one's stream is the one that proposers know.

    Raises:
        ValueError: No model, or models whose streams can't be summed: other cards, axes or order, or codes that depend
            on each other in some models only.
    """

    def __init__(self, *models: TokenModel):
        super().__init__()
        infos = [model.info for model in models]
        kinds = {(info.cards, info.axes, info.causal, info.depth) for info in infos}
        if len(kinds) != 1:
            raise ValueError(
                f"models side by side have (cards, axes, causal, depth) {sorted(kinds, key=str)}; expected the same of "
                "all, so that their streams can be summed"
            )
        self.models = nn.ModuleList(models)
        self.training = any(model.training for model in models)
        self._info = replace(
            infos[0],
            context=min(info.context for info in infos),
            layers=sum(info.layers for info in infos),
            width=max(info.width for info in infos),
            parameters=sum(info.parameters for info in infos),
            specials=min(info.specials for info in infos),
            conditioning=tuple(sorted({kind for info in infos for kind in info.conditioning})),
            trees=all(info.trees for info in infos),
        )

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Sequence[Any] | None = None) -> State:
        """Args: cond: One for each model, of its own rows; None: no model has one."""
        count = len(self.models)
        if rows % count or (cond is not None and len(cond) != count):
            raise ValueError(
                f"{rows} rows and {'no' if cond is None else len(cond)} conditions for {count} models; give every row "
                "once for each model, and each model its condition"
            )
        conds = [None] * count if cond is None else cond
        return StatesSideBySide(
            [model.init_state(rows // count, max_steps, part) for model, part in zip(self.models, conds, strict=True)]
        )

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        count = len(self.models)
        states: Sequence[State | None] = state.parts if isinstance(state, StatesSideBySide) else [None] * count
        same = block_mask is None or len(block_mask) == 1
        masks = [block_mask] * count if same else block_mask.chunk(count)
        outputs = [
            model(*part)
            for model, *part in zip(
                self.models, tokens.chunk(count), positions.chunk(count), states, masks, strict=True
            )
        ]
        widened = [pad(output.hidden, (0, self._info.width - output.hidden.shape[-1])) for output in outputs]
        return Output(torch.cat([output.logits for output in outputs]), torch.cat(widened))

    def depth(self, hidden: Float[Tensor, "R N D"], codes: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N Q V"]:
        count = len(self.models)
        parts = zip(self.models, hidden.chunk(count), codes.chunk(count), strict=True)
        return torch.cat([model.depth(part[..., : model.info.width], own) for model, part, own in parts])


class StatesSideBySide(State):
    """The states of several models, whose rows lie one behind the other."""

    def __init__(self, parts: Sequence[State]):
        self.parts = list(parts)

    @property
    def length(self) -> Int[Tensor, "R"]:
        return torch.cat([part.length for part in self.parts])

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def capacity(self) -> int:
        return self.parts[0].capacity

    def check(self, rows: int, slots: int) -> None:
        if rows != self.rows:
            raise ValueError(f"the block has {rows} rows, the state {self.rows}; give each row of the state its own")
        for part in self.parts:
            part.check(part.rows, slots)

    def commit(self, index: Int[Tensor, "R K"] | None, n: Int[Tensor, "R"] | int) -> None:
        count = len(self.parts)
        indices = [None] * count if index is None else index.chunk(count)
        numbers = [n] * count if isinstance(n, int) else n.chunk(count)
        for part, own, number in zip(self.parts, indices, numbers, strict=True):
            part.commit(own, number)

    def fork(self) -> StatesSideBySide:
        return StatesSideBySide([part.fork() for part in self.parts])

    def select(self, rows: Int[Tensor, "S"]) -> StatesSideBySide:
        """As many rows of each model, in the order of models.

        Raises:
            ValueError: Rows of one model where another one's should be.
        """
        return StatesSideBySide([part.select(own) for part, own in zip(self.parts, self._own(rows), strict=True)])

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        for part, own in zip(self.parts, self._own(rows), strict=True):
            part.reorder(own)

    def _own(self, rows: Int[Tensor, "S"]) -> list[Int[Tensor, "T"]]:
        """Which rows of each model these are."""
        count = self.parts[0].rows
        own = torch.stack(rows.chunk(len(self.parts))) if len(rows) % len(self.parts) == 0 else None
        if own is None or not (own // count == torch.arange(len(self.parts), device=rows.device)[:, None]).all():
            raise ValueError(
                f"rows {rows.tolist()} of {len(self.parts)} models of {count} rows each; expected as many of each, the "
                "first model's first"
            )
        return list(own % count)
