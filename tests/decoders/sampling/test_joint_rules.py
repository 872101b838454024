"""Rules that judge several drafted tokens together keep the law of complete outputs, and accept more of a draft."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from toys import Fit, Random, SampledTree, Toy, adversary, fit

from zoo.decoders.heads import HeadsConfig, MultiTokenHeads
from zoo.decoders.sampling import Draft, Law, Noise, decode
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import Quiet
from zoo.decoders.sampling.proposers import DraftModel, Heads, Jacobi, Proposer
from zoo.decoders.sampling.rules import Block, Recursive, Rejection, Rule, Scores, Streams

ROWS, STEPS = 10_000, 5
LAWS = [Law(), Law(temperature=0.5), Law(temperature=1.5, top_k=2), Law(top_p=0.8)]


def drafts(toy: Toy) -> dict[str, tuple[str, Proposer]]:
    """A rule and a proposer that finds probable what the target does not."""
    other = adversary(toy)
    return {
        "chain": ("block", DraftModel(other)),
        "distinct": ("recursive", SampledTree(other)),
        "independent": ("recursive", SampledTree(other, distinct=False)),
        "all": ("recursive", SampledTree(other, (3, 1))),
        "heads": ("rejection", foretelling(toy)),
        "heads, as a block": ("block", foretelling(toy)),
    }


def foretelling(toy: Toy) -> Heads:
    """Heads of chance weights, in line."""
    torch.manual_seed(5)
    heads = MultiTokenHeads(HeadsConfig.of(toy.info, 3, sequential=True)).double().eval()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return Heads(heads, width=1)


def fit_of(rule: str | Rule, proposer: Proposer | None, law: Law | None = None, rows: int = ROWS) -> Fit:
    return fit(rule, proposer, law, window=6 if isinstance(proposer, SampledTree) else 3, steps=STEPS, rows=rows)


@pytest.mark.parametrize("kind", drafts(Toy()))
def test_complete_outputs_have_the_law(kind):
    assert fit_of(*drafts(Toy())[kind]).good


# A law that only one temperature tells from another asks nothing more of a way to draft; one of few tokens does.
PROOFS = {
    "chain": range(4),  # `block` under every law
    "distinct": range(4),  # `recursive` under every law
    "independent": (0, 2),  # with replacement residuals are others, and of two tokens siblings are mostly the same one
    "all": (0, 2),  # as many siblings as tokens leave nothing to draw, and of two tokens the third sibling is a gap
    "heads": (0, 2),  # what heads say they drew from, for `rejection`
    "heads, as a block": (0, 2),  # the same for `block`, whose chances are of several tokens together
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "law"), [(kind, law) for kind, laws in PROOFS.items() for law in laws])
def test_complete_outputs_have_the_law_to_a_tenth_of_a_percent(kind, law):
    assert fit_of(*drafts(Toy())[kind], LAWS[law], rows=200_000).good


@pytest.mark.parametrize("depth", [False, True], ids=["parallel", "depth"])
def test_codes_of_a_step_are_a_chain_of_their_own(depth):
    toy = Toy((2, 3), depth=depth)
    draft = Random() if depth else DraftModel(adversary(toy))
    assert fit("block", draft, model=toy, steps=2, window=1, prompt=torch.tensor([[1, 2]]), rows=ROWS).good


def test_blocks_may_be_what_a_window_holds():
    assert fit("block", Jacobi(), model=Toy(strength=2.0), rows=ROWS).good


def test_trees_of_certain_nodes_keep_the_law():
    class Certain(SampledTree):
        def propose(self, ctx, n):
            return replace(super().propose(ctx, n), logq=None)

    assert fit_of("recursive", Certain(adversary(Toy()))).good


def expected(p: torch.Tensor, q: torch.Tensor, slots: int, joint: bool) -> float:
    """Mean number of accepted tokens, by enumeration of all drafts, for laws that are the same behind every prefix."""
    total = 0.0
    for draft in itertools.product(range(len(p)), repeat=slots):
        stands = 1.0
        for token in draft:
            ratio = float(p[token] / q[token])
            stands = min(1.0, stands * ratio) if joint else stands * min(1.0, ratio)
            total += float(q[list(draft)].prod()) * stands  # as often as more tokens stand than those before this
    return total


def measured(rule: Rule, p: torch.Tensor, q: torch.Tensor, slots: int, rows: int) -> float:
    steps = torch.arange(slots + 1).expand(rows, -1)
    streams = rule.streams(Noise(1), 0)
    logp, logq = p.log().expand(rows, slots + 1, 1, -1), q.log().expand(rows, slots, 1, -1)
    tokens = draw(logq, streams.draft.gumbel(steps[:, :-1], 1, len(p)))
    draft = Draft(tokens, torch.full((rows,), slots), None, logq)
    return float(rule.verify(draft, Scores(logp, steps, logp[..., 0]), streams).n.double().mean())


def test_a_block_is_never_accepted_less_than_its_tokens_one_by_one():
    """The authors' example accepts 11/9 of 2 tokens instead of 10/9."""
    p, q = torch.tensor([1 / 3, 2 / 3]), torch.tensor([2 / 3, 1 / 3])
    assert expected(p, q, 2, joint=True) == pytest.approx(11 / 9)
    assert expected(p, q, 2, joint=False) == pytest.approx(10 / 9)
    generator = torch.Generator().manual_seed(0)
    for laws in [(p, q), *torch.randn(3, 2, 3, generator=generator).mul(2).softmax(-1)]:
        for slots in (1, 3):
            both = [expected(*laws, slots, joint) for joint in (True, False)]
            assert both[0] >= both[1] - 1e-6 and (slots == 1 or both[0] > both[1] + 0.005)
            for rule, mean in zip((Block(), Rejection()), both, strict=True):
                margin = 4 * slots / 2 / ROWS**0.5  # no law on 0 to `slots` has a larger deviation
                assert measured(rule, *laws, slots, ROWS) == pytest.approx(mean, abs=margin)


def test_as_many_distinct_siblings_as_tokens_cannot_all_fall():
    toy, prompt = Toy(), torch.ones(500, 1, 1, dtype=torch.int64)
    traces = [
        decode(
            toy, prompt, 6, noise=Noise(2), rule="recursive", window=3,
            proposer=SampledTree(adversary(toy), (3,), distinct),
        ).trace
        for distinct in (True, False)
    ]  # fmt: skip
    assert (traces[0].accepted == 1).all() and len(traces[0].accepted) == 3
    assert not traces[1].accepted.all()


def test_more_siblings_are_accepted_more_often():
    toy, prompt = Toy(), torch.ones(2_000, 1, 1, dtype=torch.int64)
    rates = []
    for branch, distinct in ((1, True), (2, False), (2, True)):
        tree = SampledTree(adversary(toy), (branch,), distinct)
        rates.append(decode(toy, prompt, 6, noise=Noise(2), rule="recursive", proposer=tree).trace.tokens_per_forward)
    means = [float(rate.mean()) for rate in rates]
    assert means[0] + 0.03 < means[1] and means[1] + 0.03 < means[2]


def test_of_a_tree_what_stands_is_found_in_the_order_of_slots():
    """Certain laws: 2, then 1, then 1; slots of a subtree may lie between siblings."""
    logits = torch.full((2, 6, 1, 4), -torch.inf)
    for slot, token in enumerate([2, 0, 3, 1, 1, 0]):
        logits[:, slot, 0, token] = 0.0
    parent = torch.tensor([[-1, 0, -1, 2, 3]] * 2)
    tokens = torch.tensor([[1, 0, 2, 1, 1], [1, 0, 3, 1, 1]])[..., None]
    draft = Draft(tokens, torch.tensor([5, 5]), parent)
    found = Recursive().verify(draft, Scores(logits, draft.block_depth(), logits[..., 0]), Streams(*[Quiet()] * 3))
    assert found.n.tolist() == [3, 0] and found.path[0, :3].tolist() == [2, 3, 4]
    assert found.next[:, 0].tolist() == [0, 2]


def test_certain_laws_are_matched_greedily():
    toy = Toy()
    prompt = torch.ones(3, 1, 1, dtype=torch.int64)
    greedy = decode(toy, prompt, 9, Law(temperature=0)).codes
    for rule, proposer in [("block", Random()), ("block", DraftModel(toy)), *drafts(toy).values()]:
        found = decode(toy, prompt, 9, Law(temperature=0), Noise(3), proposer, rule, window=6)
        assert torch.equal(found.codes, greedy) and not found.logp.any()


EDGES = [([0.5, 0.5, 0], [0.5, 0.5, 0]), ([0.5, 0.5, 0], [0, 0, 1.0]), ([1.0, 0, 0], [0.5, 0.5, 0]),
         ([0.5, 0.5, 0], [1.0, 0, 0]), ([0.5, 0.5, 0], None), ([0, 0, 1.0], None), ([1.0, 0, 0], None)]  # fmt: skip


@pytest.mark.parametrize("tree", [False, True], ids=["block", "siblings"])
@pytest.mark.parametrize(("p", "q"), EDGES)
def test_laws_at_the_edge_give_possible_tokens(p, q, tree):
    """Two slots, a chain or siblings; None is a certain draft of token 0."""
    rows, steps, rule = 200, torch.arange(3).expand(200, -1), Recursive() if tree else Block()
    logp = torch.tensor(p).log().expand(rows, 3, 1, 3)
    logq = None if q is None else torch.tensor(q).log().expand(rows, 2, 1, 3)
    streams = rule.streams(Noise(2), 0)
    tokens = torch.zeros(rows, 2, 1, dtype=torch.int64)
    if logq is not None:
        tokens = draw(logq, streams.draft.gumbel(steps[:, 1:], 1, 3))
    draft = Draft(tokens, torch.full((rows,), 2), torch.full((rows, 2), -1) if tree else None, logq)
    found = rule.verify(draft, Scores(logp, steps, logp[..., 0]), streams)
    path = torch.arange(2).expand(rows, -1) if found.path is None else found.path
    came = [tokens[row, path[row, :n], 0] for row, n in enumerate(found.n.tolist())] + [found.next[:, 0]]
    assert all(p[token] > 0 for token in torch.cat(came).unique().tolist())
    if p == q:
        assert (found.n == (1 if tree else 2)).all()


def test_trees_of_several_codes_are_refused():
    toy = Toy((2, 3))
    with pytest.raises(ValueError, match="a tree of steps of 2 codes"):
        decode(toy, torch.tensor([[[1, 2]]]), 3, proposer=SampledTree(adversary(toy)), rule="recursive", window=6)
