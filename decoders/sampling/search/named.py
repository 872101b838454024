"""Searches by name and number, such as "beam:8", all called alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jaxtyping import Int
from torch import Tensor

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


@dataclass(frozen=True)
class Named:
    """A search that is called as `decode` is, without proposer and rule.

    Attributes:
        function: What searches.
        settings: Of it: how many paths, samples or drafts a row has, and others.
        draws: It draws at random; else it finds the same each time.
    """

    function: Callable[..., Result]
    settings: dict[str, Any]
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


NAMES: dict[str, Callable[[int], Named]] = {
    "arithmetic": lambda count: Named(best_of, {"count": count, "sampler": arithmetic_samples}, draws=True),
    "beam": lambda count: Named(beam_search, {"width": count}),
    "best-of": lambda count: Named(best_of, {"count": count}, draws=True),
    "contrastive": lambda count: Named(contrastive_search, {"candidates": count}),
    "diverse": lambda count: Named(diverse_beam_search, {"width": count, "groups": count}),
    "mbr": lambda count: Named(minimum_bayes_risk, {"count": count}, draws=True),
    "superposed": lambda count: Named(superposed_decoding, {"drafts": count}),
}
"""What makes those that need nothing but a number, by name."""


def find(name: str) -> Named:
    """The search of a name and a number, as in "beam:8".

    Raises:
        ValueError: No search has the name, or there is no number.
    """
    kind, _, count = name.partition(":")
    if kind not in NAMES:
        near = get_close_matches(kind, NAMES, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise ValueError(f"there is no search {kind!r}; {known}")
    if not (count.isdecimal() and int(count)):
        raise ValueError(f"the search {name!r} does not say how many candidates; give a number, as in {kind}:8")
    return NAMES[kind](int(count))


def with_phrases(search: Named, phrases: Sequence[Sequence[int]]) -> Named:
    """A beam search for what has these phrases.

    Raises:
        ValueError: Another search.
    """
    if search.function is not beam_search:
        raise ValueError("phrases are for beam search; give it, as in beam:8")
    return Named(constrained_beam_search, search.settings | {"phrases": phrases})
