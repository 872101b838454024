"""Rules keep the law that they declare, of complete outputs, and tests that say so notice rules that don't."""

from __future__ import annotations

import pytest
import torch
from toys import Random, SampledTree, Toy, Tree, adversary, all_outputs, counts, fit, joint_law

from zoo.decoders.sampling import Draft, Exactness, Law, Noise, decode, rules
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import Quiet
from zoo.decoders.sampling.proposers import Context, DraftModel, Jacobi, Proposer
from zoo.decoders.sampling.rules import Rejection, Scores, Streams, Verified, leading
from zoo.decoders.sampling.rules.rejection import residual

ROWS = 40_000
PROMPT = torch.tensor([[1]])
LAWS = [Law(), Law(temperature=0.5), Law(temperature=1.5, top_k=2), Law(top_p=0.8)]
COLD = LAWS[1]


class Certain(Proposer):
    """Bets on the draft model's most probable tokens, and says that they are certain, which rules may take as it is."""

    def __init__(self, model: Toy, lie: bool = False):
        self.inner, self.lie = DraftModel(model), lie

    def start(self, ctx: Context) -> None:
        self.inner.start(ctx)

    def propose(self, ctx: Context, n: int) -> Draft:
        noise, ctx.noise = ctx.noise, Quiet()
        draft = self.inner.propose(ctx, n)
        ctx.noise = noise
        return Draft(draft.tokens, draft.count, None, draft.logq if self.lie else None)

    def observe(self, ctx: Context, outcome) -> None:
        self.inner.observe(ctx, outcome)


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
@pytest.mark.parametrize("rule", ["equal", "rejection"])
def test_complete_outputs_have_the_law_whatever_is_drafted(rule, law):
    toy = Toy()
    for proposer in (DraftModel(adversary(toy)), Certain(Toy(seed=1))):
        assert fit(rule, proposer, law).good


@pytest.mark.slow  # the two rules that all others are made of or compared with, under every law
@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
@pytest.mark.parametrize("rule", ["equal", "rejection"])
def test_complete_outputs_have_the_law_to_a_tenth_of_a_percent(rule, law):
    assert fit(rule, DraftModel(adversary(Toy())), law, steps=5, rows=200_000).good


@pytest.mark.parametrize("rule", ["equal", "rejection"])
@pytest.mark.parametrize("depth", [False, True], ids=["parallel", "depth"])
def test_codes_of_a_step_have_their_joint_law(rule, depth):
    toy = Toy((2, 3), depth=depth)
    draft = Random() if depth else DraftModel(adversary(toy))
    assert fit(rule, draft, model=toy, steps=2, window=1, prompt=torch.tensor([[1, 2]])).good
    assert fit(rule, None, model=toy, steps=2, prompt=torch.tensor([[1, 2]])).good


class NoResidual(Rejection):
    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        found = super().verify(draft, scores, noise)
        row = torch.arange(len(found.n))
        drawn = draw(scores.logp, noise.draw.gumbel(scores.steps, *scores.logp.shape[2:]))
        return found._replace(next=drawn[row, found.n])


class SharedNoise(Rejection):
    def streams(self, noise: Noise, round: int) -> Streams:
        return super().streams(noise, round)._replace(draw=super().streams(noise, round).draft)


class OneUniform(Rejection):
    """Seeds anew before each test."""

    def streams(self, noise: Noise, round: int) -> Streams:
        class Stuck(Noise):
            def uniform(self, steps: torch.Tensor, codebooks: int) -> torch.Tensor:
                return super().uniform(steps * 0, codebooks)

        streams = super().streams(noise, 0)
        return streams._replace(test=Stuck(streams.test.seed, stream=streams.test.stream))


class FreshDraw(rules.Equal):
    """Draws anew where the draft does not match, instead of keeping what was drawn."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        found = super().verify(draft, scores, noise)
        again = draw(scores.logp, noise.draw.derive(9).gumbel(scores.steps, *scores.logp.shape[2:]))
        return found._replace(next=again[torch.arange(len(found.n)), found.n])


MUTANTS = [NoResidual(), SharedNoise(), OneUniform(), rules.Lenient(), FreshDraw()]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[type(mutant).__name__ for mutant in MUTANTS])
def test_rules_that_change_the_law_are_found_out(mutant):
    assert fit(mutant, DraftModel(adversary(Toy()))).p < 1e-6


class UntemperedBonus(Rejection):
    """Behind a draft that stands whole, where the law is `COLD`, it is left as the model gave it."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        bonus = (torch.arange(draft.slots + 1) == draft.count[:, None]) & (draft.count > 0)[:, None]
        plain = (scores.logp * COLD.temperature).log_softmax(-1)
        logp = torch.where(bonus[..., None, None], plain, scores.logp)
        return super().verify(draft, scores._replace(logp=logp), noise)


def test_a_bonus_token_without_temperature_is_found_out():
    assert fit(UntemperedBonus(), DraftModel(adversary(Toy())), COLD, rows=10_000).p < 1e-6


class OneOfTwo(Rejection):
    """Judges two drafts that were drawn apart, and keeps the result of the first, or of the one that stands longer."""

    trees = True

    def __init__(self, longer: bool):
        self.longer = longer

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        if not draft.slots:
            return super().verify(draft, scores, noise)
        found = []
        for way in range(2):
            slots = torch.arange(way, draft.slots, 2)
            chain = Draft(draft.tokens[:, slots], draft.count // 2, None, draft.logq[:, slots])
            block = torch.cat((torch.zeros(1, dtype=torch.int64), slots + 1))
            seen = scores._replace(logp=scores.logp[:, block], steps=scores.steps[:, block])
            found.append(super().verify(chain, seen, Streams(*(stream.derive(way) for stream in noise))))
        other = (found[1].n > found[0].n) & self.longer
        path = 2 * torch.arange(draft.slots // 2) + other[:, None]
        kept = [torch.where(other, found[1].n, found[0].n), torch.where(other[:, None], found[1].next, found[0].next)]
        return Verified(kept[0], path, kept[1])


def test_to_keep_the_draft_that_stands_longer_is_found_out():
    """ReDrafter's sampling does so."""
    two = SampledTree(adversary(Toy()), (2, 1, 1), distinct=False)
    assert fit(OneOfTwo(longer=False), two, window=6, rows=10_000).good
    assert fit(OneOfTwo(longer=True), two, window=6, rows=10_000).p < 1e-6


def test_a_draft_law_that_drafts_were_not_drawn_from_is_found_out():
    assert fit("rejection", Certain(Toy(seed=1), lie=True)).p < 1e-6


def test_rejection_accepts_as_often_as_p_and_q_overlap():
    torch.manual_seed(0)
    logp, logq = torch.randn(1, 1, 1, 6).log_softmax(-1), torch.randn(1, 1, 1, 6).log_softmax(-1)
    steps = torch.arange(2).expand(ROWS, -1)
    rule = Rejection()
    streams = rule.streams(Noise(1), 0)
    tokens = draw(logq, streams.draft.gumbel(steps[:, :1], 1, 6))
    draft = Draft(tokens, torch.ones(ROWS, dtype=torch.int64), None, logq.expand(ROWS, -1, -1, -1))
    scores = Scores(logp.expand(ROWS, 2, 1, 6), steps, torch.zeros(ROWS, 2, 1))
    accepted = rule.verify(draft, scores, streams).n.double().mean()
    overlap = torch.minimum(logp.exp(), logq.exp()).sum()
    assert accepted == pytest.approx(float(overlap), abs=4 / (4 * ROWS) ** 0.5)
    equal = rules.Equal()
    streams = equal.streams(Noise(1), 0)
    tokens = draw(logq, streams.draft.gumbel(steps[:, :1], 1, 6))
    accepted = equal.verify(Draft(tokens, draft.count), scores, streams).n.double().mean()
    margin = 4 / (4 * ROWS) ** 0.5
    assert overlap / (2 - overlap) - margin < accepted < overlap + margin


@pytest.mark.parametrize("rule", rules.RULES)
def test_certain_laws_make_every_rule_match_greedily(rule):
    toy = Toy()
    prompt = PROMPT.expand(3, -1, -1)
    greedy = decode(toy, prompt, 9, Law(temperature=0))
    for proposer in (*chains(toy), *trees(rule, toy, torch.cat((prompt, greedy.codes), 1), 3)):
        found = decode(toy, prompt, 9, Law(temperature=0), Noise(3), proposer, rule, window=6)
        assert torch.equal(found.codes, greedy.codes) and not found.logp.any()


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_token_alone_is_drawn_without_doubt(rule, temperature):
    toy, prompt = Toy((1,)), torch.zeros(2, 1, 1).long()
    for proposer in (*chains(toy), *trees(rule, toy, prompt.expand(-1, 6, -1), 1)):
        result = decode(toy, prompt, 5, Law(temperature=temperature), proposer=proposer, rule=rule)
        assert not result.codes.any() and not result.logp.any() and result.trace.drafted.any()


def chains(toy: Toy) -> list[Proposer]:
    return [Random(), DraftModel(adversary(toy)), DraftModel(toy), Jacobi()]


def trees(rule: str, toy: Toy, whole: torch.Tensor, branch: int) -> list[Proposer]:
    """For rules that take them, with or without what will come."""
    return [Tree(whole), SampledTree(adversary(toy), (branch, 1))] if rules.find(rule).trees else []


def edge_laws() -> list[tuple[list[float], list[float] | None]]:
    """p and q; None is a certain draft of token 0."""
    half, first, last = [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    return [
        (half, half),
        (half, last),
        (first, half),
        (half, first),
        (last, first),
        (half, None),
        (last, None),
        (first, None),
    ]


@pytest.mark.parametrize("rule", [rules.Equal(), rules.Rejection()], ids=["equal", "rejection"])
@pytest.mark.parametrize(("p", "q"), edge_laws())
def test_laws_at_the_edge_give_possible_tokens(rule, p, q):
    rows, steps = 200, torch.arange(2).expand(200, -1)
    logp = torch.tensor(p).log().expand(rows, 2, 1, 3)
    logq = None if q is None else torch.tensor(q).log().expand(rows, 1, 1, 3)
    streams = rule.streams(Noise(2), 0)
    tokens = (
        torch.zeros(rows, 1, 1, dtype=torch.int64)
        if logq is None
        else draw(logq, streams.draft.gumbel(steps[:, :1], 1, 3))
    )
    found = rule.verify(Draft(tokens, torch.ones(rows).long(), None, logq), Scores(logp, steps, logp[..., 0]), streams)
    came = torch.cat((tokens[found.n == 1, 0, 0], found.next[:, 0]))
    assert all(p[token] > 0 for token in came.unique().tolist())
    assert ((found.n == 0) | (found.n == 1)).all()
    if p == q:
        assert found.n.all()


def test_something_is_left_of_a_law_even_if_a_rejection_was_rounding():
    logp, token = torch.tensor([[0.2, 0.8], [0.0, 1.0]]).log(), torch.tensor([1, 1])
    for logq in (logp, None):
        left = residual(logp, token, logq)
        assert torch.equal(left[1], logp[1]) and not left.isnan().any() and torch.isfinite(left.amax(-1)).all()
    assert torch.equal(residual(logp, token, logp), logp)
    assert residual(logp, token, None)[0].isneginf().tolist() == [False, True]


def test_of_a_tree_the_way_that_was_drawn_stands():
    logits = torch.full((2, 6, 1, 4), -torch.inf)
    for slot, token in enumerate([2, 0, 3, 1, 1, 0]):
        logits[:, slot, 0, token] = 0.0
    parent = torch.tensor([[-1, -1, 1, 1, 3], [-1, -1, 1, 1, 3]])
    tokens = torch.tensor([[1, 2, 0, 3, 1], [1, 3, 0, 3, 1]])[..., None]
    draft = Draft(tokens, torch.tensor([5, 5]), parent)
    found = rules.Equal().verify(draft, Scores(logits, draft.block_depth(), logits[..., 0]), Streams(*[Quiet()] * 3))
    assert found.n.tolist() == [3, 0]  # 2, then 3 of two children, then 1
    assert found.path[0, :3].tolist() == [1, 3, 4]
    assert found.next[:, 0].tolist() == [0, 2]
    cut = Draft(tokens, torch.tensor([3, 5]), parent)
    found = rules.Equal().verify(cut, Scores(logits, cut.block_depth(), logits[..., 0]), Streams(*[Quiet()] * 3))
    assert found.n.tolist() == [1, 0] and found.next[0, 0] == 3


def test_leading_counts_up_to_the_first_that_falls():
    stands = torch.tensor([[True, True, False, True], [False, True, True, True], [True] * 4])
    assert leading(stands).tolist() == [2, 0, 4]


def test_rules_are_found_by_name_and_say_what_they_do():
    assert rules.find("equal").exactness == Exactness.IDENTICAL == "identical"
    assert rules.find("rejection").exactness == Exactness.DISTRIBUTION
    with pytest.raises(ValueError, match="no rule 'greedy'; there are block, coupled, equal, gumbel, lenient"):
        rules.find("greedy")


def test_enumeration_is_a_law():
    assert joint_law(Toy(), PROMPT, 3, Law()).sum() == pytest.approx(1.0, abs=1e-5)
    found = all_outputs((2, 3), 2)
    assert torch.equal(counts(found, (2, 3)), torch.ones(36, dtype=torch.int64))
