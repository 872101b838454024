"""Approximate rules say so, keep what they promise to keep, and are told from exact ones by their outputs."""

from __future__ import annotations

import math

import pytest
import torch
from toys import Random, Toy, Tree, adversary, fit

from zoo.decoders.sampling import Draft, Law, Noise, decode, rules
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers import DraftModel
from zoo.decoders.sampling.rules import Lenient, Scores, TopK, Typical
from zoo.decoders.sampling.rules.plausible import Plausible

NAMES = ["typical", "lenient", "top_k"]
PROMPT = torch.tensor([[[1]], [[0]], [[2]]])


@pytest.mark.parametrize("name", NAMES)
def test_they_change_the_law_and_declare_it(name):
    toy = Toy()
    assert fit(name, DraftModel(adversary(toy)), steps=5, rows=10_000).p < 1e-6
    assert decode(toy, PROMPT, 3, rule=name).exactness == "approximate"


@pytest.mark.parametrize("name", NAMES)
def test_without_drafts_and_with_certain_laws_they_change_nothing(name):
    toy = Toy()
    greedy = decode(toy, PROMPT, 9, Law(temperature=0)).codes
    trees = [Tree(torch.cat((PROMPT, greedy), 1))] if rules.find(name).trees else []
    for proposer in (Random(), DraftModel(adversary(toy)), DraftModel(toy), *trees):
        assert torch.equal(decode(toy, PROMPT, 9, Law(temperature=0), Noise(3), proposer, name).codes, greedy)
    assert fit(name, None, steps=3, rows=5_000).good


@pytest.mark.parametrize("name", NAMES)
def test_they_accept_more_than_the_exact_rule_they_are_made_from(name):
    toy = Toy()
    exact = "rejection" if name == "lenient" else "equal"
    prompt = PROMPT[:1].expand(1_000, -1, -1)
    means = [
        float(decode(toy, prompt, 8, proposer=DraftModel(Toy(seed=1)), rule=rule).trace.tokens_per_forward.mean())
        for rule in (name, exact)
    ]
    assert means[0] > means[1] + 0.1


def judged(rule: Plausible, p: list[float]) -> list[bool]:
    """Which tokens of a law stand."""
    logp, tokens = torch.tensor(p).log().expand(1, len(p), 1, -1), torch.arange(len(p))[None, :, None]
    return rule.plausible(logp, tokens).flatten().tolist()


def test_typical_tokens_lie_above_a_threshold_that_falls_with_entropy():
    assert judged(Typical(), [0.9, 0.095, 0.005]) == [True, True, False]  # 0.09: doubt is small
    p = [0.04] * 24 + [0.04 - 0.035, 0.035]  # exp(-H) is near 1/26, a third of it is enough
    entropy = -sum(x * math.log(x) for x in p)
    assert 0.005 < 0.3 * math.exp(-entropy) < 0.035
    assert judged(Typical(), p) == [True] * 24 + [False, True]
    assert judged(Typical(delta=0.1), p) == [True] * 26
    for wrong in ({"epsilon": 0.0}, {"delta": 1.5}):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            Typical(**wrong)


def test_the_first_choices_stand_if_they_are_possible():
    p = [0.5, 0.2, 0.3, 0.0]
    for k, stand in {1: [0], 2: [0, 2], 3: [0, 1, 2], 9: [0, 1, 2]}.items():
        assert judged(TopK(k), p) == [token in stand for token in range(4)]
    with pytest.raises(ValueError, match="k is 0"):
        TopK(0)


def test_lenience_gives_no_token_more_than_its_share():
    rows, steps = 50_000, torch.arange(2).expand(50_000, -1)
    p, q = torch.tensor([0.05, 0.25, 0.7]), torch.tensor([0.6, 0.3, 0.1])
    for logq in (q.log().expand(rows, 1, 1, 3), None):
        for lenience in (0.5, 0.9):
            rule = Lenient(lenience)
            streams = rule.streams(Noise(1), 0)
            tokens = torch.zeros(rows, 1, 1, dtype=torch.int64)
            if logq is not None:
                tokens = draw(logq, streams.draft.gumbel(steps[:, :1], 1, 3))
            logp = p.log().expand(rows, 2, 1, 3)
            found = rule.verify(
                Draft(tokens, torch.ones(rows).long(), None, logq), Scores(logp, steps, logp[..., 0]), streams
            )
            came = torch.where(found.n == 1, tokens[:, 0, 0], found.next[:, 0])
            share = came.bincount(minlength=3) / rows
            assert (share <= p / lenience + 4 * (0.25 / rows) ** 0.5).all()
            assert share[0] == pytest.approx(float(p[0] / lenience), abs=4 * (0.25 / rows) ** 0.5)
    with pytest.raises(ValueError, match="lenience is 0"):
        Lenient(0)


def test_no_lenience_is_rejection():
    toy = Toy()
    runs = [decode(toy, PROMPT, 12, Law(), Noise(5), DraftModel(adversary(toy)), rule) for rule in
            (Lenient(1.0), "rejection")]  # fmt: skip
    assert torch.equal(runs[0].codes, runs[1].codes)


@pytest.mark.parametrize("rule", [Typical(), TopK(2)], ids=["typical", "top_k"])
@pytest.mark.parametrize("depth", [False, True], ids=["parallel", "depth"])
def test_of_a_step_that_falls_the_codes_that_stand_are_kept(rule, depth):
    toy = Toy((3, 4), depth=depth)
    seen = []

    class Spy(Random):
        def observe(self, ctx, outcome):
            drafted, scores, n = outcome.draft, outcome.scores, outcome.verified.n
            passes = rule.plausible(scores.logp[:, : drafted.slots], drafted.tokens)
            for row in range(ctx.rows):
                at = int(n[row])
                if at < int(drafted.count[row]) and outcome.count[row] == at + 1:
                    same = outcome.tokens[row, at, 0] == drafted.tokens[row, at, 0]
                    seen.append((bool(passes[row, at, 0]), bool(same)))

    torch.manual_seed(0)
    decode(toy, torch.tensor([[[1, 2]]] * 40), 8, proposer=Spy(), rule=rule)
    assert all(kept for stands, kept in seen if stands) and sum(stands for stands, _ in seen) > 5
