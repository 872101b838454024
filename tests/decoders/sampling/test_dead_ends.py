"""Drafts may lead where no token is possible: an error comes of it only where plain sampling gets there, too."""

from __future__ import annotations

import pytest
import torch
from toys import Toy, Tree, every_kind

from zoo.decoders.sampling import Draft, Law, Noise, decode
from zoo.decoders.sampling.processors import Grammar, NoRepeat
from zoo.decoders.sampling.proposers import DraftModel, DySpec, NGram, OptTree, Proposer, Recycling, Staged

PIECES, END = [b"a", b"b", b"ab", b"ba", b"c", b"", b"bc"], 7


class Always(Proposer):
    """Drafts the same chain, or the same children of the root, in every round."""

    def __init__(self, *tokens: int, side_by_side: bool = False):
        self.tokens, self.side_by_side = torch.tensor(tokens), side_by_side

    def propose(self, ctx, n):
        tokens = self.tokens[:n].expand(ctx.rows, -1)[..., None]
        parent = torch.full(tokens.shape[:2], -1) if self.side_by_side else None
        return Draft(tokens, torch.full((ctx.rows,), tokens.shape[1]), parent)


def drafters(whole: torch.Tensor, other: Toy) -> dict[str, Proposer]:
    more = {
        "n-gram": NGram(), "recycling": Recycling(), "opt-tree": OptTree(other), "dyspec": DySpec(other),
        "staged": Staged(other, NGram()), "twos": Always(0, 1, 0), "star": Always(0, 1, side_by_side=True),
    }  # fmt: skip
    return every_kind(whole, other) | more


def outcome(toy, prompt, steps, law, seed, proposer=None, **options):
    """Codes, or the error's words without the place."""
    try:
        return decode(toy, prompt, steps, law, Noise(seed), proposer, **options).codes.flatten().tolist()
    except ValueError as error:
        return str(error).partition(" at [")[0]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [2, 3])
def test_repetitions_that_are_forbidden_altogether_end_what_sampling_ends(seed, steps):
    toy, prompt, law = Toy((2,)), torch.tensor([[[0], [0], [1]]]), Law(processors=(NoRepeat(2),))
    expected = outcome(toy, prompt, steps, law, seed)
    whole = torch.zeros(1, 3 + steps, 1, dtype=torch.int64)
    whole[0, :3] = prompt
    if isinstance(expected, list):
        whole[0, 3:, 0] = torch.tensor(expected)
    for name, proposer in drafters(whole, Toy((2,), seed=3)).items():
        assert outcome(toy, prompt, steps, law, seed, proposer) == expected, name


@pytest.mark.parametrize("seed", range(6))
def test_a_grammar_s_dead_end_counts_where_it_is_reached(seed):
    """No token has the byte d, so that behind a nothing follows; behind ba the sentence is at its end."""
    law = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))
    toy, prompt = Toy((9,)), torch.zeros(1, 1, 1, dtype=torch.int64)
    expected = outcome(toy, prompt, 3, law, seed, stop=END)
    assert expected == [3, END] or expected == [1, 0, END] or "'ad|ba' can't be satisfied" in expected
    whole = torch.zeros(1, 4, 1, dtype=torch.int64)
    if isinstance(expected, list):
        whole[0, 1 : 1 + len(expected), 0] = torch.tensor(expected)
    for name, proposer in drafters(whole, Toy((9,), seed=5)).items():
        assert outcome(toy, prompt, 3, law, seed, proposer, stop=END) == expected, name


def test_both_ends_are_met():
    """The seeds above see words that come out and words that cannot."""
    law = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))
    found = [outcome(Toy((9,)), torch.zeros(1, 1, 1).long(), 3, law, seed, stop=END) for seed in range(6)]
    assert {type(each) for each in found} == {list, str}


@pytest.mark.parametrize("rule", ["rejection", "block", "coupled", "typical"])
def test_other_rules_survive_dead_ends_behind_what_falls(rule):
    law = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))
    toy, prompt, came = Toy((9,)), torch.zeros(1, 1, 1, dtype=torch.int64), set()
    for seed in range(12):
        proposer = DraftModel(Toy((9,), seed=5)) if seed % 2 else Always(0, 1, 0)
        found = outcome(toy, prompt, 3, law, seed, proposer, rule=rule, stop=END)
        came.add(tuple(found) if isinstance(found, list) else found.partition(",")[0])
    dead = "the regex grammar 'ad|ba' can't be satisfied"
    assert dead in came and came - {dead} <= {(3, END), (1, 0, END)} and len(came) > 1


def test_a_tree_may_have_a_dead_branch_beside_the_way_that_stands():
    law = Law(processors=(Grammar("ad|ba", "regex", PIECES, END),))
    toy, prompt = Toy((9,)), torch.zeros(1, 1, 1, dtype=torch.int64)
    seed = next(seed for seed in range(9) if outcome(toy, prompt, 3, law, seed, stop=END) == [3, END])
    whole = torch.tensor([[[0], [3], [END], [0]]])
    found = decode(toy, prompt, 3, law, Noise(seed), Tree(whole), stop=END)
    assert found.codes.flatten().tolist() == [3, END]
    star = decode(toy, prompt, 3, law, Noise(seed), Always(0, 3, side_by_side=True), stop=END)
    assert star.codes.flatten().tolist() == [3, END] and int(star.trace.accepted.sum()) == 1
