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
from zoo.decoders.sampling.search.ngrams import NGrams
from zoo.decoders.sampling.search.superposed import superposed_decoding
from zoo.written import Written, written


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
    "superposed": Named(superposed_decoding),
}
"""Those that need nothing but numbers, by name."""


def find(text: str, counted: Callable[[str], NGrams] | None = None) -> Named:
    """The search of a name, a number, and settings of its function, as in "beam:8" or "diverse:8,groups=4".

    A diverse beam search has as many groups as paths if nobody says how many. Superposed decoding takes n-grams, and
    with them a weight: "superposed:3,ngrams=FILE,trust=0.5".

    Args:
        counted: Makes n-grams of what such a file holds; None: nobody can.

    Raises:
        ValueError: No search has the name or such a setting, there is no number, or no n-grams to trust in.
    """
    try:
        kind = written(text, "search", NAMES)
        kind.refuse_parts()
        search, count = NAMES[kind.name], kind.values[0] if kind.values else ""
        if search.function is superposed_decoding:
            kind, search = _with_ngrams(kind, search, counted)
        if not (count.isdecimal() and int(count)):
            raise UserError(f"the search {text!r} does not say how many candidates; give a number, as in {kind.name}:8")
        settings = kind.settings(search.function, {"steps", *search.settings})
    except UserError as error:  # samplers, which know no command line, raise what functions raise
        raise ValueError(str(error)) from None
    if search.function is diverse_beam_search:
        settings = {"groups": settings["width"]} | settings
    return replace(search, settings=search.settings | settings)


def _with_ngrams(kind: Written, search: Named, counted: Callable[[str], NGrams] | None) -> tuple[Written, Named]:
    """What is left to be read of a superposed decoding, and the same with its n-grams."""
    named = dict(kind.named)
    file = named.pop("ngrams", None)
    if not file:
        if file == "" or "trust" in named or len(kind.values) > 1:
            raise UserError(f"there are no n-grams to trust in; name a file of text, as in {kind.name}:3,ngrams=FILE")
        return kind, search
    if counted is None:
        raise UserError("n-grams of a file are for decoders of text; leave them out")
    return replace(kind, named=named), replace(search, settings=search.settings | {"ngrams": counted(file)})


def with_phrases(search: Named, phrases: Sequence[Sequence[int]]) -> Named:
    """A beam search for what has these phrases.

    Raises:
        ValueError: Another search.
    """
    if search.function is not beam_search:
        raise ValueError("phrases are for beam search; give it, as in beam:8")
    return Named(constrained_beam_search, search.settings | {"phrases": phrases})
