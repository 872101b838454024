"""Verification rules, by name: what of a draft stands, and what comes behind it."""

from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified, in_line, known_codes, leading, slot_of
from zoo.decoders.sampling.rules.coupled import Coupled, GumbelCoupled
from zoo.decoders.sampling.rules.equal import Equal
from zoo.decoders.sampling.rules.rejection import Rejection

RULES: dict[str, Rule] = {
    "equal": Equal(),
    "rejection": Rejection(),
    "coupled": Coupled(),
    "gumbel": GumbelCoupled(),
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
    "Coupled",
    "Equal",
    "GumbelCoupled",
    "Rejection",
    "Rule",
    "Scores",
    "Streams",
    "Verified",
    "find",
    "in_line",
    "known_codes",
    "leading",
    "slot_of",
]
