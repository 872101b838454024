"""What drafts, judges and bends the law of a generation, as it is written on the command line; see `zoo.written`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.decoders.acceptance import AcceptanceHead
from zoo.decoders.autoregressive import core_of
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Flat, Layout
from zoo.decoders.layouts.base import Shape
from zoo.decoders.one_code import OneCode, has_one_code
from zoo.decoders.sampling import Law, processors, proposers, rules
from zoo.decoders.sampling.processors import Grammar, Processor
from zoo.decoders.sampling.proposers import Jacobi, Proposer
from zoo.decoders.sampling.proposers.jacobi import AXES
from zoo.decoders.sampling.rules import Rule
from zoo.generation_weights import fewest_bits, packed
from zoo.written import Written, written

WITH_MODEL = {
    "draft": proposers.DraftModel,
    "dyspec": proposers.DySpec,
    "opt-tree": proposers.OptTree,
    "specdec": proposers.SpecDec,
    "staged": proposers.Staged,
}
WITH_FALLBACK = {
    "copyspec": proposers.CopySpec,
    "input-copy": proposers.InputCopy,
    "suffix-automaton": proposers.SuffixAutomaton,
}
OF_LAYERS = {"early-exit": proposers.EarlyExit, "swift": proposers.Swift}
OF_SEVERAL = {"bandit": proposers.Bandit, "exp3": proposers.Exp3}
PROPOSERS = tuple(sorted({*proposers.NAMES, *WITH_MODEL, *WITH_FALLBACK, *OF_LAYERS, *OF_SEVERAL, "heads", "phrases"}))

PROCESSORS: dict[str, type[Processor]] = {
    "mirostat": processors.Mirostat,
    "no-repeat": processors.NoRepeat,
    "repetition": processors.RepetitionPenalty,
    "repetition-aware": processors.RepetitionAware,
}
GRAMMARS = ("json", "lark", "regex")


@dataclass(frozen=True)
class Contrast:
    """How much the likings of another decoder count, and the share of the largest probability that tokens need."""

    weight: float = 1.0
    plausible: float = 0.1

    def __post_init__(self) -> None:
        if not (self.weight > 0 and 0 < self.plausible <= 1):
            raise ValueError(f"weight {self.weight}, plausible {self.plausible}; expected more than 0, and a share")


@dataclass(frozen=True)
class Amateur:
    """A decoder whose likings are taken off those of another; see `zoo.decoders.side_by_side`.

    Attributes:
        model: Of the same tokens.
        streams, plausible: Of the law.
    """

    model: TokenModel
    streams: tuple[float, float]
    plausible: float


class CodeByCode(Flat):
    """As `Flat`, for those who see a decoder as `OneCode`: its neighbours are places among steps of a single slot."""

    def neighbours(self, shape: Shape) -> Int[Tensor, "N 1 axes"]:
        found = super().neighbours(shape)
        return found.amax(1, keepdim=True) // found.shape[1]  # slots without a code have no neighbours: -1


class Maker:
    """Makes proposers for one decoder; models and files are read once.

    Args:
        decoder: The target.
        one_code: It is seen as `OneCode`, and so are models that draft for it.
        name: What errors call it.
    """

    def __init__(self, decoder: TokenModel, one_code: bool = False, name: str = "the decoder"):
        self.decoder, self.one_code, self.name = decoder, one_code, name
        self.draft = cache(lambda name: draft_of(decoder, name, fewest_bits(decoder)))
        self.model = cache(self._model)
        self.below = cache(lambda name: Maker(self.draft(name), one_code, f"the draft model {name}"))
        self.heads = cache(lambda name: heads_of(decoder, name, fewest_bits(decoder)))
        self.head = cache(AcceptanceHead.load)

    def made(self, text: str, cond: Conditions | None, shape: Shape | None = None) -> Proposer:
        """The proposer that is written so, for rows of these conditions, on grids of this shape.

        Raises:
            UserError: There is none, it has no such settings, or a model or file of it does not fit.
        """
        kind = written(text, "proposer", PROPOSERS)
        if kind.name in OF_SEVERAL:
            if not kind.parts:
                raise UserError(f"name what {kind.name} is to choose among: {kind.name}+ngram+jacobi")
            return kind.made(OF_SEVERAL[kind.name], {"arms": [self.made(part, cond, shape) for part in kind.parts]})
        if kind.name == "phrases":
            return kind.made(proposers.Phrases, {"inner": self._only_part(kind, cond, shape, "phrases+draft:MODEL")})
        if kind.name == "staged":
            below = self.below(self._model_name(kind))
            inner = below._only_part(replace(kind, parts=kind.parts or ("ngram",)), cond, shape, "staged:MODEL+ngram")
            return self._with_model(kind, cond, {"proposer": inner})
        if kind.name in WITH_FALLBACK:
            return self._copying(kind, cond, shape)
        kind.refuse_parts()
        if kind.name in WITH_MODEL:
            return self._with_model(kind, cond, {})
        if kind.name == "heads":
            name, *values = kind.values or ("",)
            if not name:
                raise UserError("name the heads that draft, too: heads:NAME")
            return replace(kind, values=tuple(values)).made(proposers.Heads, {"heads": self.heads(name)})
        if kind.name == "early-exit":
            return self._exiting(kind)
        if kind.name == "jacobi" and kind.settings(Jacobi, ()).get("guess") in AXES:
            return kind.made(Jacobi, {"layout": self.layout, "shape": shape})
        plain: Any = OF_LAYERS.get(kind.name) or proposers.NAMES[kind.name]
        return kind.made(plain)

    @property
    def layout(self) -> Layout:
        """Of the steps that proposers see."""
        layout: Layout = self.decoder.tokens.layout
        return CodeByCode(layout.sizes, absent=layout.absent, begin=layout.begin) if self.one_code else layout

    def _model(self, name: str) -> Any:
        draft = self.draft(name)
        return OneCode(draft, draft.tokens.layout) if self.one_code else draft

    def _with_model(self, kind: Written, cond: Conditions | None, parts: dict[str, Any]) -> Proposer:
        name, values = self._model_name(kind), kind.values[1:]
        model, named = self.model(name), dict(kind.named)
        parts = parts | {"model": model, "cond": cond if model.info.conditioning else None}
        if kind.name == "specdec":
            if "head" not in named:
                raise UserError(
                    f"{kind.name} stops by what a trained head says: {kind.name}:{name},head=FILE, made by "
                    f"`python -m zoo.acceptance_training`; without one, take draft:{name},confident=0.3"
                )
            try:
                parts["head"] = self.head(named.pop("head"))
            except (ValueError, OSError) as error:
                raise UserError(str(error)) from None
        return replace(kind, values=values, named=named).made(WITH_MODEL[kind.name], parts)

    def _model_name(self, kind: Written) -> str:
        if not (kind.values and kind.values[0]):
            raise UserError(f"name the model that drafts, too: {kind.name}:MODEL")
        return kind.values[0]

    def _exiting(self, kind: Written) -> Proposer:
        count, *values = kind.values or ("",)
        if not count.isdecimal():
            raise UserError("say behind how many layers to exit: early-exit:2")
        core = core_of(self.decoder)
        if core is not None and not 1 <= int(count) <= core.info.layers:
            raise UserError(
                f"early-exit:{count}: {self.name} has {core.info.layers} layers; give 1 .. {core.info.layers}"
            )
        return replace(kind, values=tuple(values)).made(proposers.EarlyExit, {"depths": range(int(count))})

    def _copying(self, kind: Written, cond: Conditions | None, shape: Shape | None) -> Proposer:
        parts: dict[str, Any] = {}
        if kind.parts:
            parts["fallback"] = self._only_part(kind, cond, shape, f"{kind.name}+ngram")
        if kind.name == "input-copy" and kind.values:
            vocabulary = self.decoder.tokens.vocabulary
            if vocabulary is None:
                raise UserError("a text to copy from is for decoders of text; leave it out, and the prompt is copied")
            source, kind = read_text(",".join(kind.values)), replace(kind, values=())
            parts["source"] = torch.tensor(vocabulary.encode(source), dtype=torch.int64)[:, None]
        return kind.made(WITH_FALLBACK[kind.name], parts)

    def _only_part(self, kind: Written, cond: Conditions | None, shape: Shape | None, example: str) -> Proposer:
        if len(kind.parts) != 1:
            raise UserError(f"{kind.name} is made of one more proposer, not of {len(kind.parts)}; write {example}")
        return self.made(kind.parts[0], cond, shape)


def draft_of(decoder: TokenModel, name: str, weights: str = "float32") -> Any:
    """The decoder of that name, which must be of the same tokens, with matrices in that type.

    Raises:
        UserError: It is not, or there is none.
    """
    draft: Any = registry.load_decoder(name, next(decoder.parameters()).device)
    if what := decoder.tokens.difference(draft.tokens):
        raise UserError(f"the decoder {name} is of another {what}; a draft must be of the same tokens")
    return packed(draft, weights)


def heads_of(decoder: TokenModel, name: str, weights: str = "float32") -> Any:
    """The heads of that name, made for this decoder's tokens, with matrices in that type.

    Raises:
        UserError: They are for others, or there are none.
    """
    heads: Any = registry.load_heads(name, next(decoder.parameters()).device)
    if what := decoder.tokens.difference(heads.tokens):
        raise UserError(f"the heads {name} are of another {what}; heads must be made for the decoder")
    return packed(heads, weights)


def amateur_for(decoder: TokenModel, against: str | TokenModel) -> Amateur:
    """What a decoder is set against, as in "MODEL" or "MODEL,weight=0.5,plausible=0.1".

    Raises:
        UserError: It is of other tokens, or has no such setting.
    """
    if isinstance(against, TokenModel):
        return Amateur(against, (1.0, -Contrast.weight), Contrast.plausible)
    kind = written(f"against:{against}", "decoder", ("against",))
    contrast = replace(kind, values=kind.values[1:]).made(Contrast)
    return Amateur(draft_of(decoder, kind.values[0]), (1.0, -contrast.weight), contrast.plausible)


def drafter(decoder: TokenModel, proposer: str | Proposer, one_code: bool = False) -> Callable[..., Proposer]:
    """Makes the proposer for rows of some conditions, on grids of some shape, as `Maker.made` takes them.

    Raises:
        UserError: See `Maker.made`.
    """
    if isinstance(proposer, Proposer):
        return lambda cond, shape=None: proposer
    maker = Maker(decoder, one_code)
    smallest = (1,) * (decoder.tokens.layout.axes or 2)
    maker.made(proposer, None, smallest)  # said now if it cannot be
    return lambda cond, shape=None: maker.made(proposer, cond, shape)


def sees_one_code(decoder: TokenModel, proposer: str | Proposer | None, law: Law) -> bool:
    """Whether the decoder may be seen as `OneCode`: not by heads, made for all its codebooks, and what looks at all."""
    heads = isinstance(proposer, Proposer) or "heads" in (proposer or "")
    return decoder.info.causal and has_one_code(decoder.tokens.layout) and not heads and not law.processors


def rule_for(rule: str | Rule | None) -> Rule:
    """The rule that is written so; default: `equal`.

    Raises:
        UserError: There is none, or it has no such settings.
    """
    if isinstance(rule, Rule):
        return rule
    kind = written(rule or "equal", "rule", rules.RULES)
    kind.refuse_parts()
    return kind.made(type(rules.RULES[kind.name]))


def processors_for(decoder: TokenModel, texts: Sequence[str | Processor]) -> tuple[Processor, ...]:
    """The processors that are written so, in order.

    Raises:
        UserError: There is no such one, it has no such settings, or this decoder writes no text for a grammar.
    """
    return tuple(text if isinstance(text, Processor) else _processor(decoder, text) for text in texts)


def _processor(decoder: TokenModel, text: str) -> Processor:
    name, _, rest = text.partition(":")
    if name not in GRAMMARS:
        kind = written(text, "processor", (*PROCESSORS, *GRAMMARS))
        kind.refuse_parts()
        return kind.made(PROCESSORS[name])
    vocabulary = decoder.tokens.vocabulary
    if vocabulary is None:
        raise UserError(f"a {name} grammar is for decoders of text; leave it out")
    if not rest:
        raise UserError(f"say what the text is to keep to: {name}:TEXT, or {name}:FILE")
    try:
        return Grammar(read_text(rest), name, vocabulary.pieces, vocabulary.end)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from None


def read_text(text: str | Path) -> str:
    """The text, or what the file of that name holds."""
    if not os.path.isfile(text):
        return str(text)
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(text)}: cannot be read as text ({error}); give UTF-8") from None
