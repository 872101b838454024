"""Trees that grow are the best there are by what their model holds probable, and keep the law of what they declare."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_candidate_trees import ways
from test_drafts_of_every_kind import target
from toys import Fit, Toy, adversary, all_outputs, fit, joint_law

from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import DraftModel, DySpec, OptTree, Phrases, Proposer, Swift
from zoo.decoders.sampling.proposers.specdec import SpecDec

ROWS, STEPS = 8_000, 5
PROMPT = torch.tensor([[1]])
GREEDY = Law(temperature=0)


class First(Proposer):
    """Keeps the first draft."""

    def __init__(self, inner: Proposer):
        self.inner, self.draft = inner, None
        self.start, self.observe = inner.start, inner.observe

    def propose(self, ctx, n):
        draft = self.inner.propose(ctx, n)
        self.draft = draft if self.draft is None else self.draft
        return draft


def values(model: Toy, deepest: int) -> dict[tuple[int, ...], float]:
    """The probability of each way of up to so many steps behind the prompt."""
    found = {}
    for steps in range(1, deepest + 1):
        law = joint_law(model, PROMPT, steps, Law())
        found |= {tuple(way[:, 0].tolist()): float(p) for way, p in zip(all_outputs((3,), steps), law, strict=True)}
    return found


@pytest.mark.parametrize("budget", [2, 7, 12])
def test_no_tree_of_as_many_nodes_has_a_larger_mean_of_accepted_steps(budget):
    """By enumeration: the chances of all ways; the best tree has the largest of these."""
    toy, draft = Toy(), Toy(seed=3)
    spy = First(OptTree(draft, width=3, gain=0.0, sharp=1.0, least=0.0))
    decode(toy, PROMPT[None], 12, GREEDY, Noise(1), spy, window=budget)
    chance = values(draft, 4)
    found = [tuple(int(step) for step in way) for _, way in ways(spy.draft, 0)]
    assert len(set(found)) == len(found) == budget and max(map(len, found)) <= 4
    best = sorted(chance.values(), reverse=True)[:budget]
    assert sum(chance[way] for way in found) == pytest.approx(sum(best), rel=1e-5)


def test_a_tree_ends_where_a_level_adds_too_little():
    toy, draft, most = Toy(), Toy(seed=3), []
    for gain in (0.0, 0.7, 0.9):
        spy = First(OptTree(draft, width=2, gain=gain, sharp=1.0, least=0.0))
        decode(toy, PROMPT[None], 12, GREEDY, Noise(1), spy, window=12)
        most.append(int(spy.draft.depth().max()))
    assert most[0] > most[1] > most[2] == 1


def test_each_node_is_put_where_it_is_most_likely_of_use():
    """From the definition: the chance of the node above, times what its law has beyond the children that are there."""
    draft = Toy(seed=3)
    spy = First(DySpec(draft, least=0.02, sharp=1.0, gain=0.0, near=1.0))
    decode(Toy(), PROMPT[None], 12, GREEDY, Noise(1), spy, window=9)
    chance, above = values(draft, 9), {(): 1.0}
    left = {(): 1.0}
    for _, way in ways(spy.draft, 0):
        way = tuple(int(step) for step in way)
        assert left[way[:-1]] == pytest.approx(max(left.values()), rel=1e-5) and left[way[:-1]] >= 0.02
        sisters = [token for token in range(3) if (*way[:-1], token) not in above]
        assert way[-1] == max(sisters, key=lambda token, way=way: chance[(*way[:-1], token)])
        above[way] = left[way] = chance[way]
        left[way[:-1]] -= chance[way]
    assert len(above) == 10 and max(map(len, above)) > 2


def test_the_draft_model_is_asked_less_often_if_good_places_are_taken_first_or_new_nodes_must_be_worth_it():
    def passes(**arguments) -> float:
        proposer = DySpec(Toy(seed=3), least=0.02, sharp=1.0, **arguments)
        trace = decode(Toy(), PROMPT.expand(16, -1)[:, None], 12, Law(), Noise(1), proposer, window=9).trace
        return float(trace.draft_forwards.float().mean())

    one_by_one = passes(near=1.0, gain=0.0)
    assert passes(near=0.1, gain=0.0) < one_by_one and passes(near=1.0, gain=0.5) < one_by_one


def test_what_has_no_chance_is_not_drafted():
    plain = decode(Toy(), PROMPT[None], 9, Law(), Noise(1))
    found = decode(Toy(), PROMPT[None], 9, Law(), Noise(1), OptTree(Toy(seed=3), least=0.999))
    assert not found.trace.drafted.any() and torch.equal(found.codes, plain.codes)


@pytest.mark.parametrize("make", [OptTree, DySpec])
def test_the_target_s_own_trees_are_accepted_as_deep_as_they_are(make):
    model = target()
    prompt = random_tokens(model, 2, 4)
    for law in (GREEDY, Law()):
        trace = decode(model, prompt, 20, law, Noise(3), make(target()), window=8).trace
        assert (trace.accepted.sum(0) + len(trace.accepted) >= 20).all() and trace.acceptance.min() > 0.1
        lone = decode(model, prompt, 20, law, Noise(3), make(target()), window=1).trace
        assert (lone.acceptance == 1).all()


def test_a_tree_finds_more_than_a_chain_of_as_many_nodes():
    """Of a draft model that is right half of the time."""
    model, draft = small_decoder((30,), layers=2), small_decoder((30,), layers=2)
    generator = torch.Generator().manual_seed(9)
    for parameter in draft.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    prompt, means = random_tokens(model, 16, 4), []
    for proposer in (DraftModel(draft), OptTree(draft), DySpec(draft)):
        means.append(decode(model, prompt, 16, GREEDY, Noise(3), proposer, window=8).trace.tokens_per_forward.mean())
    assert means[1] > means[0] + 0.1 and means[2] > means[0] + 0.1, means
    assert means[0] > 1.05


# The law of complete outputs


def drafts() -> dict[str, tuple[str, Proposer]]:
    """A rule and a proposer that finds probable what the target does not."""
    wrong = adversary(Toy())
    return {
        "dyspec": ("recursive", DySpec(wrong)),
        "opt-tree": ("recursive", OptTree(wrong)),
        "phrases": ("recursive", Phrases(DraftModel(wrong), ngram=2)),
        "specdec": ("rejection", Foretold(wrong)),
        "specdec in blocks": ("block", Foretold(wrong)),
    }


class Foretold(DraftModel):
    """`SpecDec` whose head says what its tokens say: that of 0 is likely to stand, and the others are not."""

    threshold = 0.7

    def __init__(self, model):
        super().__init__(model, confident=1 - self.threshold)

    def stands(self, ctx, logits, gumbel, step):
        return torch.where(step[:, 0, 0] == 0, 0.9, 0.2).double()


def fit_of(rule, proposer, law=None, window=5, rows=ROWS) -> Fit:
    return fit(rule, proposer, law, window, steps=STEPS, rows=rows)


@pytest.mark.parametrize("kind", drafts())
def test_complete_outputs_have_the_law(kind):
    assert fit_of(*drafts()[kind]).good


# The rules are proved under more laws in `test_rules` and `test_joint_rules`; here it is what proposers say of drafts.
LAWS = {"plain": Law(), "few": Law(temperature=1.5, top_k=2)}
PROOFS = [
    ("dyspec", "plain"),  # trees whose siblings were drawn without replacement
    ("dyspec", "few"),  # of two tokens the second sibling is certain, and a third there is not
    ("opt-tree", "plain"),  # certain nodes: another law changes which they are, and not what is said of them
    ("phrases", "plain"),  # certain nodes, behind those of a chain
    ("specdec", "plain"),  # where a draft ends depends on its own steps
    ("specdec", "few"),  # the same where drafts often have what is impossible
    ("specdec in blocks", "plain"),  # the same where several steps are judged together
    ("specdec in blocks", "few"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "law"), PROOFS)
def test_complete_outputs_have_the_law_to_a_tenth_of_a_percent(kind, law):
    assert fit_of(*drafts()[kind], LAWS[law], rows=200_000).good


def test_the_heads_that_stop_are_those_of_the_loop():
    """What is proved with `Foretold` holds for `SpecDec`: both say nothing but `stands`."""
    assert Foretold.propose is SpecDec.propose is DraftModel.propose


class LooksFirst(DySpec):
    """Leaves its last node out if that has an improbable token."""

    def grow(self, ctx, n, reader):
        tree = super().grow(ctx, n, reader)
        last = (tree.count - 1).clamp(min=0)
        row = torch.arange(ctx.rows)
        chance = tree.logq[row, last, 0].gather(1, tree.tokens[row, last]).exp()[:, 0]
        return replace(tree, count=(tree.count - (chance < 0.6).long()).clamp(min=0))


class SameLaw(DySpec):
    """Says that siblings were drawn with replacement."""

    def grow(self, ctx, n, reader):
        tree = super().grow(ctx, n, reader)
        same = tree.parent[:, :, None] == tree.parent[:, None]
        first = same.int().argmax(-1)
        return replace(tree, logq=tree.logq[torch.arange(ctx.rows)[:, None], first])


class MostProbable(OptTree):
    """Says that its nodes were drawn, which were the most probable."""

    def grow(self, ctx, n, reader):
        tree = super().grow(ctx, n, reader)
        logq = reader.laws(tree)[torch.arange(ctx.rows)[:, None], tree.before()]
        return replace(tree, logq=logq)


class StopsBefore(Foretold):
    """Leaves the step out that it does not trust, rather than what would come behind it."""

    def propose(self, ctx, n):
        draft = super().propose(ctx, n)
        last = (draft.count - 1).clamp(min=0)
        doubted = draft.tokens[torch.arange(ctx.rows), last, 0] != 0
        return replace(draft, count=(draft.count - doubted.long()).clamp(min=0))


@pytest.mark.parametrize(
    ("rule", "fault", "window"),
    [
        ("recursive", LooksFirst, 1),
        ("recursive", SameLaw, 5),
        ("recursive", MostProbable, 5),
        ("rejection", StopsBefore, 5),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_faults_are_found_out(rule, fault, window):
    assert fit_of(rule, fault(adversary(Toy())), window=window).p < 1e-6


# What fits


def test_what_does_not_fit_is_named():
    for arguments in (dict(width=0), dict(gain=1.0), dict(least=1.0)):
        with pytest.raises(ValueError, match="expected 1 or more, and a part of a step"):
            OptTree(Toy(), **arguments)
    for arguments in (dict(least=0.0), dict(near=0.0), dict(gain=-1.0)):
        with pytest.raises(ValueError, match="expected chances between 0 and 1, and 0 or more steps"):
            DySpec(Toy(), **arguments)
    chains = Toy()
    chains._info = replace(chains.info, trees=False)
    with pytest.raises(ValueError, match="runs chains only"):
        decode(Toy(), PROMPT[None], 5, proposer=DySpec(chains))
    with pytest.raises(ValueError, match="DySpec drafts trees, which the rule Rejection does not take"):
        decode(Toy(), PROMPT[None], 5, proposer=DySpec(Toy()), rule="rejection")
    with pytest.raises(ValueError, match="1 layers, of which the first and the last always run"):
        small = small_decoder(layers=1)
        decode(small, random_tokens(small, 1, 2), 5, proposer=Swift())
