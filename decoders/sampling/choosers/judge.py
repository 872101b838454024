"""A second model beside the decoder, and what it says of the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.at_fault import at_fault
from zoo.decoders.sampling.choosers.base import View


@dataclass(frozen=True)
class Judge:
    """A model of the same tokens, asked once a step.

    Attributes:
        model: One that fills in is asked what the decoder is asked. One that goes step by step reads the candidates in
            their order, a place a step, and says of each what it expects behind those before it.
        cond: What its `init_state` takes.
        begin: Token that begins sequences, of all codebooks or of each, for models that go step by step. None: of the
            first place, they say what the decoder says.
    """

    model: TokenModel
    cond: Any = None
    begin: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.model.info.depth:
            raise ValueError(
                "a judge says of all codes of a place at once, and here they depend on each other; take another"
            )

    def logp(self, view: View) -> Float[Tensor, "R S Q V"]:
        """Log-probabilities of what stands at each place, at temperature 1.

        Raises:
            ValueError: Another vocabulary, or open codes in other codebooks and no mask token to read them as; errors
                of the judge's model, such as NaN logits, which say that they are its own.
        """
        info, own = self.model.info, view.logits.log_softmax(-1)
        if (info.codebooks, info.vocabulary) != tuple(own.shape[2:]):
            raise ValueError(f"the judge knows tokens {list(info.cards)}, the decoder others: {list(own.shape[2:])}")
        with at_fault("the judge"):
            state = self.model.init_state(len(own), 0, self.cond)
            if not info.causal:
                return self.model(view.tokens, view.positions, state, _seen(view)).logits.log_softmax(-1)
        tokens = self._read(view)[:, :-1]
        positions = None if view.positions is None else view.positions[:, :-1]
        if self.begin is not None:
            begin = torch.tensor(self.begin, device=tokens.device).expand(len(own), 1, info.codebooks)
            tokens = torch.cat((begin, tokens), 1)
            positions = (
                None if positions is None else torch.cat((torch.zeros_like(view.positions[:, :1]), positions), 1)
            )
        if not tokens.shape[1]:
            return own
        with at_fault("the judge"):
            said = self.model(tokens, positions, state).logits.log_softmax(-1)
        return torch.cat((own[:, : own.shape[1] - said.shape[1]], said), 1)

    def _read(self, view: View) -> Int[Tensor, "R S Q"]:
        tokens = view.candidates.where(view.inside[..., None], 0)
        blank = tokens < 0
        if blank.any() and not self.model.info.specials:
            raise ValueError(
                "codebooks are filled one after the other, and the judge knows no mask token for those to come; fill "
                "all together, or take another model"
            )
        return torch.where(blank, torch.tensor(self.model.info.cards, device=tokens.device), tokens)


def _seen(view: View) -> Bool[Tensor, "R S S"] | None:
    """Places of the row, each of which sees all."""
    whole = view.inside.all()
    return None if whole else view.inside[:, None].expand(-1, view.inside.shape[1], -1)
