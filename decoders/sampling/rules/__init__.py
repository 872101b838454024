"""Verification rules, by name: what of a draft stands, and what comes behind it."""

from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified, in_line, known_codes, leading, slot_of
from zoo.decoders.sampling.rules.block import Block
from zoo.decoders.sampling.rules.coupled import Coupled, GumbelCoupled
from zoo.decoders.sampling.rules.equal import Equal
from zoo.decoders.sampling.rules.lenient import Lenient, TopK
from zoo.decoders.sampling.rules.recursive import Recursive
from zoo.decoders.sampling.rules.rejection import Rejection
from zoo.decoders.sampling.rules.typical import Typical

RULES: dict[str, Rule] = {
    "equal": Equal(),
    "rejection": Rejection(),
    "block": Block(),
    "recursive": Recursive(),
    "coupled": Coupled(),
    "gumbel": GumbelCoupled(),
    "typical": Typical(),
    "lenient": Lenient(),
    "top_k": TopK(),
}


def find(rule: str | Rule) -> Rule:
    """The rule of that name, or the rule itself.

    Raises:
        ValueError: No rule has the name.
    """
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(sorted(RULES))}")
    return RULES[rule]


__all__ = [
    "RULES",
    "Block",
    "Coupled",
    "Equal",
    "GumbelCoupled",
    "Lenient",
    "Recursive",
    "Rejection",
    "Rule",
    "Scores",
    "Streams",
    "TopK",
    "Typical",
    "Verified",
    "find",
    "in_line",
    "known_codes",
    "leading",
    "slot_of",
]
