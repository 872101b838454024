"""The towers of a zipper, begun as decoders that were trained alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zoo.codecs.errors import UserError
from zoo.configs import to_json
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.zipper import Zipper
from zoo.recipes.start import trained
from zoo.text_vocabulary import TextVocabulary
from zoo.token_facts import TokenFacts

FREE = ("transformer.dropout", "conditioning")  # what may differ: no weight is of another shape or use for it
Names = tuple[str | None, str | None]


class TrainedTowers:
    """Copies the weights of trained decoders into the towers of a zipper, and knows what their tokens are.

    Of a decoder with conditions, such as text, the tower is that without them: what it is when nothing is given.

    Args:
        zipper: What to fill.
        names: A decoder for each tower, see `zoo.recipes.start.trained`; None: the tower stays random.

    Raises:
        UserError: Nothing to fill, or a decoder of another kind or shape than its tower.
    """

    def __init__(self, zipper: TokenModel, names: Names):
        if not isinstance(zipper, Zipper):
            raise UserError(f"towers_from is for a Zipper, and this trains a {type(zipper).__name__}; leave it out")
        self.names, self.config = names, zipper.config
        self.tokens: list[TokenFacts | None] = [None, None]
        for number, (name, tower) in enumerate(zip(names, zipper.towers.members, strict=True)):
            if name is not None:
                self.tokens[number] = fill(tower, number, name)

    @property
    def vocabulary(self) -> TextVocabulary | None:
        """Of the texts that a trained tower reads; None: bytes, or nobody knows."""
        tokens = self.tokens[1 - self.config.target]
        return None if tokens is None or tokens.vocabulary is None else TextVocabulary.written_by(tokens.vocabulary)

    def check(self, facts: TokenFacts) -> None:
        """
        Args:
            facts: Of the data.

        Raises:
            UserError: A tower is of other tokens.
        """
        target, reader = self.config.target, 1 - self.config.target
        own = self.tokens[target]
        if own is not None and (what := facts.difference(replace(own, text_vocabulary=None))):  # left behind
            raise UserError(f"{self._where(target)} is of another {what} than the data; take one of the same tokens")
        if (read := self.tokens[reader]) is None:
            return
        if self.config.source == "text":
            if read.vocabulary is None:
                raise UserError(f"{self._where(reader)} is no decoder of text, and it is to read texts; take one")
            if facts.text_vocabulary != self.vocabulary:
                raise UserError(
                    f"{self._where(reader)} is of another vocabulary than the data's texts; give these as strings, "
                    "which become its tokens: --data.text=text"
                )
        elif (read.codec, read.weights) != (facts.codec, facts.weights):
            raise UserError(f"{self._where(reader)} is of {read.codec!r}, the data of {facts.codec!r}; take the same")

    def _where(self, number: int) -> str:
        return f"tower {number}, {self.names[number]},"


def fill(tower: AutoregressiveDecoder, number: int, name: str) -> TokenFacts:
    """Copy the weights of the decoder of that name; what its tokens are."""
    found = trained(name)
    core = bare(found) if isinstance(found, TokenModel) else found
    if type(core) is not AutoregressiveDecoder:
        raise UserError(
            f"tower {number} can't begin as {name}: that is a {type(core).__name__}, towers are AutoregressiveDecoders"
        )
    if apart := difference(tower.config, core.config):
        raise UserError(f"tower {number} can't begin as {name}: {apart}; make the tower's the same")
    tower.load_state_dict(core.state_dict())
    return found.tokens


def difference(own: AutoregressiveConfig, other: AutoregressiveConfig) -> str:
    """In which fields two shapes differ; "" if weights of the one are weights of the other."""
    mine, its = _fields(to_json(own)), _fields(to_json(other))
    free = FREE if own.learned_positions else (*FREE, "context")
    unequal = [name for name in mine | its if name not in free and mine.get(name) != its.get(name)]
    return ", ".join(f"its {name} is {mine.get(name)}, there {its.get(name)}" for name in unequal)


def _fields(values: dict[str, Any], front: str = "") -> dict[str, Any]:
    """Fields of nested objects, with the names of the outer ones in front."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict)
        found |= _fields(value, f"{front}{name}.") if inner else {front + name: value}
    return found
