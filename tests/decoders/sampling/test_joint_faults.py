"""Rules that judge several drafted tokens together, spoilt in one place each: tests of the law find every fault."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_joint_rules import ROWS, drafts, fit_of
from toys import SampledTree, Toy, adversary

from zoo.decoders.sampling import Exactness, Law, Noise, rules
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.rules import Recursive, Rule, Streams, block, recursive, slot_of

COLD = Law(temperature=0.5)


class Spoilt(Rule):
    """A rule with a fault around it."""

    exactness, trees = Exactness.DISTRIBUTION, True

    def __init__(self, rule: Rule):
        self.rule = rule

    def verify(self, draft, scores, noise):
        return self.rule.verify(draft, scores, noise)


class WrongLaw(Spoilt):
    def verify(self, draft, scores, noise):
        logq = None if draft.logq is None else torch.zeros_like(draft.logq).log_softmax(-1)
        return super().verify(replace(draft, logq=logq), scores, noise)


class NoResidual(Spoilt):
    def verify(self, draft, scores, noise):
        found = super().verify(draft, scores, noise)
        tokens = draw(scores.logp, noise.draw.gumbel(scores.steps, *scores.logp.shape[2:]))
        return found._replace(next=tokens[torch.arange(len(tokens)), slot_of(found)])


class SharedNoise(Spoilt):
    def streams(self, noise, round):
        streams = super().streams(noise, round)
        return streams._replace(draw=streams.draft)


class UntemperedBonus(Spoilt):
    """Behind the last drafted node, where the law is `COLD`, it is left as the model gave it."""

    def verify(self, draft, scores, noise):
        judge = torch.where(draft.present(), draft.before(), draft.slots + 1)
        inner = torch.zeros(len(judge), draft.slots + 2, dtype=torch.bool).scatter(1, judge, True)[:, :-1]
        inner |= (draft.count == 0)[:, None]  # what is drawn without a draft is no bonus
        plain = (scores.logp * COLD.temperature).log_softmax(-1)
        logp = torch.where(inner[..., None, None], scores.logp, plain)
        return super().verify(draft, scores._replace(logp=logp), noise)


# Shared noise shows in chains only: where two distinct siblings of three tokens fell, hardly anything is left to draw.
FAULTS = [(spoilt, kind) for spoilt in Spoilt.__subclasses__() for kind in ("chain", "distinct")]


@pytest.mark.parametrize(("spoilt", "kind"), [fault for fault in FAULTS if fault != (SharedNoise, "distinct")])
def test_faults_around_a_rule_are_found_out(spoilt, kind):
    rule, proposer = drafts(Toy())[kind]
    assert fit_of(spoilt(rules.find(rule)), proposer, COLD if spoilt is UntemperedBonus else None, 2 * ROWS).p < 1e-6


BLOCK_FAULTS = {
    "chances of the prefix alone": ("chances", lambda keeps, left: keeps),
    "what p has beyond q, of a prefix that may stand": ("beyond", lambda keeps, p, q: (p - q).clamp(min=0)),
    "tokens tested one by one": (
        "kept",
        lambda logp, q, tokens: torch.cat(
            (
                torch.ones(len(q), 1),
                (logp.exp() / q).gather(-1, tokens[..., None])[..., 0].clamp(max=1).cumprod(1),
            ),
            1,
        ),
    ),
}


@pytest.mark.parametrize("fault", BLOCK_FAULTS)
def test_faults_of_blocks_are_found_out(monkeypatch, fault):
    monkeypatch.setattr(block, *BLOCK_FAULTS[fault])
    assert fit_of(*drafts(Toy())["chain"], rows=2 * ROWS).p < 1e-6


class OneUniform(Recursive):
    """All siblings are tested with the same number."""

    def streams(self, noise: Noise, round: int) -> Streams:
        class Stuck(Noise):
            def derive(self, *names: int) -> Noise:
                return self

        streams = super().streams(noise, round)
        return streams._replace(test=Stuck(streams.test.seed, stream=streams.test.stream))


def test_siblings_have_tests_of_their_own():
    assert fit_of(OneUniform(), drafts(Toy())["distinct"][1], rows=2 * ROWS).p < 1e-6


def test_a_sibling_is_tried_against_what_is_left(monkeypatch):
    monkeypatch.setattr(recursive, "residual", lambda logp, token, logq: logp)
    assert fit_of(*drafts(Toy())["distinct"], rows=2 * ROWS).p < 1e-6


def test_a_draft_has_to_say_how_siblings_were_drawn():
    assert fit_of("recursive", SampledTree(adversary(Toy()), honest=False), rows=2 * ROWS).p < 1e-6
