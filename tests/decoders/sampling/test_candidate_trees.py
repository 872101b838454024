"""Trees hold the candidates that heads and matrices give behind the way to each node, and as many as pay."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from test_lookahead import Chain
from test_proposers import GREEDY, NOISE, small_heads
from toys import Toy

from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import Heads, Recycling
from zoo.decoders.sampling.proposers.trees import Tree


def ways(draft, row):
    """Of each node: rank among its parent's children, and the steps from the root to it."""
    found: list[tuple[int, list]] = []
    for slot in range(int(draft.count[row])):
        parent = slot - 1 if draft.parent is None else int(draft.parent[row, slot])
        siblings = [] if draft.parent is None else draft.parent[row, :slot].tolist()
        above = found[parent][1] if parent >= 0 else []
        found.append((siblings.count(parent), [*above, draft.tokens[row, slot]]))
    return found


def test_the_likeliest_nodes_come_first():
    """Chances at 0.6: 0.6 | 0.36 below it | 0.24 beside it | 0.216, three times the best | ..."""
    tree = Tree.likeliest(4, 2)
    assert tree == Tree((-1, 0, -1, 1), (0, 0, 1, 0))
    assert tree.levels(4) == [[0, 2], [1], [3]] and tree.levels(2) == [[0], [1]]
    assert Tree.likeliest(4, 1) == Tree((-1, 0, 1, 2), (0, 0, 0, 0))
    assert Tree.likeliest(9, 2, deepest=1) == Tree((-1, -1), (0, 1))
    for width, hit in ((0, 0.5), (2, 1.0), (2, 0.0)):
        with pytest.raises(ValueError, match="expected 1 or more and a chance"):
            Tree.likeliest(4, width, hit=hit)


@pytest.mark.parametrize("sequential", [False, True], ids=["medusa", "hydra"])
@pytest.mark.parametrize("law", [GREEDY, Law(temperature=0.7)], ids=["greedy", "plain"])
def test_nodes_are_the_best_candidates_of_the_head_of_their_level(sequential, law):
    model, heads, checked = small_decoder(layers=2), small_heads(sequential), []

    class Spy(Heads):
        def propose(self, ctx, n):
            draft = super().propose(ctx, n)
            for row in range(ctx.rows):
                for rank, way in ways(draft, row):
                    level = len(way) - 1
                    between = torch.stack([ctx.last[row], *way[:-1]])[None, None] if sequential else None
                    logits = heads(ctx.hidden[row : row + 1, None], level, between)[0, 0]
                    step = torch.full((ctx.rows, 1), int(ctx.length[row]) + level)
                    noise = 0 if law.certain else NOISE.gumbel(step, 2, 11)[row, 0]
                    score = logits / (law.temperature or 1) + noise
                    assert torch.equal(score.argsort(-1, descending=True)[:, rank], way[-1])
                    checked.append((level, rank))
            return draft

    decode(model, random_tokens(model, 2, 3), 6, law, NOISE, Spy(heads, width=3), window=8)
    assert {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)} <= set(checked) and max(checked)[0] == 2


def test_heads_are_made_for_one_target_and_draft_chains_for_rules_that_want_them():
    model = small_decoder(layers=2)
    prompt = random_tokens(model, 2, 3)
    with pytest.raises(
        ValueError, match=r"heads of the cards \(11, 7\) on hidden states of width 16, a target of \(3,"
    ):
        decode(Toy(), torch.ones(1, 1, 1).long(), 3, proposer=Heads(small_heads(False)))
    chain = decode(model, prompt, 9, noise=NOISE, proposer=Heads(small_heads(True), width=1), rule="rejection")
    assert chain.exactness == "distribution" and (chain.trace.drafted[0] == 3).all()  # a step for each head
    assert not chain.trace.draft_forwards.any()


def test_a_cycle_is_known_after_one_turn():
    model = Chain([3, 0, 1, 4, 2, 6, 7, 5])
    prompt = torch.tensor([[[1]], [[5]]])
    for law in (GREEDY, Law(temperature=0.5)):
        trace = decode(model, prompt, 40, law, NOISE, Recycling(2), window=12).trace
        assert (trace.emitted[6:9] >= 5).all(), trace.emitted
    chain = decode(model, prompt, 40, GREEDY, proposer=Recycling(1), rule="rejection", window=4).trace
    assert (chain.emitted[6:9] == 5).all()


def test_candidates_are_the_target_s_latest_and_older_ones_behind_them():
    toy, seen = Toy((6,)), {}

    class Spy(Recycling):
        def observe(self, ctx, outcome):
            super().observe(ctx, outcome)
            root = ctx.tokens[0, ctx.length[0] - outcome.count[0] - 1]
            block = [int(root), *outcome.draft.tokens[0, : outcome.draft.count[0], 0].tolist()]
            for token, law in zip(block, outcome.scores.logp[0, :, 0], strict=False):
                seen[token] = [law]
            for token, (law,) in seen.items():
                assert torch.equal(self._ids[0, 0, token], law.topk(3).indices)
                assert torch.equal(self._logp[0, 0, token], law.topk(3).values)

    decode(toy, torch.tensor([[[1]]]), 20, noise=NOISE, proposer=Spy(3), window=6)
    assert len(seen) > 3

    latest = {}

    class Keep(Recycling):
        def observe(self, ctx, outcome):
            super().observe(ctx, outcome)
            root = ctx.tokens[0, ctx.length[0] - outcome.count[0] - 1]
            block = [int(root), *outcome.draft.tokens[0, : outcome.draft.count[0], 0].tolist()]
            last = {token: int(law.argmax()) for token, law in zip(block, outcome.scores.logp[0, :, 0], strict=False)}
            for token, best in last.items():
                latest[token] = [best, *(id for id in latest.get(token, []) if id != best)][:3]
            for token, ids in latest.items():
                assert self._ids[0, 0, token][self._ids[0, 0, token] >= 0].tolist() == ids

    decode(toy, torch.tensor([[[1]]]), 30, GREEDY, proposer=Keep(3), window=6)
    assert max(len(ids) for ids in latest.values()) > 1


def test_what_the_layout_fixes_is_part_of_the_way():
    model = small_decoder(layers=2, specials=1)
    prompt = random_tokens(model, 2, 3)
    forced = torch.full((1, 20, 2), -1)
    forced[0, 5::4] = torch.tensor([11, 7])  # ids that only go in
    plain = decode(model, prompt, 16, noise=NOISE, forced=forced)
    torch.manual_seed(1)
    for proposer in (Recycling(3), Heads(small_heads(False)), Recycling(1)):
        found = decode(model, prompt, 16, noise=Noise(7), proposer=proposer, forced=forced, window=6)
        assert torch.equal(found.codes, plain.codes) and found.trace.drafted.any()
