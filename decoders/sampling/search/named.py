"""Searches by name, number and settings, such as "beam:8" and "beam:8,length_penalty=0.6", all called alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.contrastive_search import contrastive_search
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Result
from zoo.decoders.sampling.search.arithmetic import arithmetic_samples
from zoo.decoders.sampling.search.bayes_risk import minimum_bayes_risk
from zoo.decoders.sampling.search.beam import beam_search
from zoo.decoders.sampling.search.best_of import best_of
from zoo.decoders.sampling.search.constrained import constrained_beam_search
from zoo.decoders.sampling.search.diverse import diverse_beam_search
from zoo.decoders.sampling.search.superposed import superposed_decoding
from zoo.written import written


@dataclass(frozen=True)
class Named:
    """A search that is called as `decode` is, without proposer and rule.

    Attributes:
        function: What searches.
        settings: Of it: how many paths, samples or drafts a row has, and others.
        draws: It draws at random; else it finds the same each time.
    """

    function: Callable[..., Result]
    settings: dict[str, Any] = field(default_factory=dict)
    draws: bool = False

    def __call__(
        self,
        model: TokenModel,
        prompt: Int[Tensor, "C_times_R P Q"],
        steps: int | Int[Tensor, "R"],
        law: Law,
        noise: Noise,
        **options: Any,
    ) -> Result:
        """See `decode`, and the function."""
        drawing = {"noise": noise} if self.draws else {}
        return self.function(model, prompt, steps, law=law, **drawing, **self.settings, **options)


NAMES: dict[str, Named] = {
    "arithmetic": Named(best_of, {"sampler": arithmetic_samples}, draws=True),
    "beam": Named(beam_search),
    "best-of": Named(best_of, draws=True),
    "contrastive": Named(contrastive_search),
    "diverse": Named(diverse_beam_search),
    "mbr": Named(minimum_bayes_risk, draws=True),
    "superposed": Named(superposed_decoding, {"trust": 0.0}),  # that is trust in n-grams, of which there are none
}
"""Those that need nothing but numbers, by name."""


def find(text: str) -> Named:
    """The search of a name, a number, and settings of its function, as in "beam:8" or "diverse:8,groups=4".

    A diverse beam search has as many groups as paths if nobody says how many.

    Raises:
        ValueError: No search has the name or such a setting, or there is no number.
    """
    try:
        kind = written(text, "search", NAMES)
        kind.refuse_parts()
        search, count = NAMES[kind.name], kind.values[0] if kind.values else ""
        if not (count.isdecimal() and int(count)):
            raise UserError(f"the search {text!r} does not say how many candidates; give a number, as in {kind.name}:8")
        settings = kind.settings(search.function, {"steps", *search.settings})
    except UserError as error:  # samplers, which know no command line, raise what functions raise
        raise ValueError(str(error)) from None
    if search.function is diverse_beam_search:
        settings = {"groups": settings["width"]} | settings
    return replace(search, settings=search.settings | settings)


def with_phrases(search: Named, phrases: Sequence[Sequence[int]]) -> Named:
    """A beam search for what has these phrases.

    Raises:
        ValueError: Another search.
    """
    if search.function is not beam_search:
        raise ValueError("phrases are for beam search; give it, as in beam:8")
    return Named(constrained_beam_search, search.settings | {"phrases": phrases})
