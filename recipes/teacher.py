"""A trained decoder that another one learns from."""

from __future__ import annotations

import torch

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.recipes.start import trained
from zoo.token_facts import TokenFacts


class Teacher:
    """A frozen decoder in eval mode; neither a part of the module that holds it, nor of its checkpoints.

    Args:
        name: As `zoo.load` takes it, or the `last.ckpt` of a training run.

    Attributes:
        decoder: It itself.

    Raises:
        UserError: There is none of that name.
    """

    def __init__(self, name: str):
        found = trained(name)
        if not isinstance(found, TokenModel):
            raise UserError(f"{name} is no decoder; a teacher predicts tokens")
        found.checked = False
        self.name, self.decoder = name, found.requires_grad_(False)

    def check(self, facts: TokenFacts) -> None:
        """
        Raises:
            UserError: It is of other tokens, or told texts in other ones.
        """
        tokens, what = self.decoder.tokens, facts.difference(self.decoder.tokens)
        if "text" in self.decoder.info.conditioning and facts.text_vocabulary != tokens.text_vocabulary:
            what = "text_vocabulary"
        if what:
            raise UserError(f"the teacher {self.name} is of another {what}; learning from it needs the same tokens")

    def to(self, device: torch.device) -> None:
        """Move it to where the others are."""
        self.decoder.to(device)
