"""Several models side by side are what each of them is alone."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.side_by_side import SideBySide
from zoo.decoders.transformer import Conditioning


@pytest.fixture(scope="module")
def members() -> list:
    return [small_decoder(layers=2), small_decoder(layers=1, width=24, seed=3, context=30)]


@pytest.fixture(scope="module")
def pair(members) -> SideBySide:
    return SideBySide(*members)


def alone(members, tokens, mask=None):
    """Logits of each model for its own rows, without memory."""
    parts = [None, None] if mask is None else mask.chunk(2)
    outputs = [model(own, block_mask=part) for model, own, part in zip(members, tokens.chunk(2), parts, strict=True)]
    return torch.cat([output.logits for output in outputs])


def test_facts_hold_for_all_of_them(members, pair):
    info = pair.info
    assert (info.cards, info.layers, info.width, info.context) == ((11, 7), 3, 24, 30)
    assert info.parameters == sum(model.info.parameters for model in members) and not pair.training
    assert SideBySide(members[0], small_decoder().train()).training


def test_each_reads_its_own_rows(members, pair):
    tokens = random_tokens(pair, 4, 6)
    output = pair(tokens)
    assert torch.allclose(output.logits, alone(members, tokens), atol=1e-5)
    assert output.hidden.shape == (4, 6, 24) and not output.hidden[:2, :, 16:].any()
    assert torch.allclose(output.hidden[2:], members[1](tokens[2:]).hidden)


def test_what_is_committed_selected_and_forked_is_so_in_all_of_them(members, pair):
    tokens = random_tokens(pair, 4, 5)
    state = pair.init_state(4, 20)
    with torch.no_grad():
        pair(tokens, state=state)
        state.commit(None, torch.tensor([5, 2, 3, 5]))
        tree = random_tokens(pair, 4, 3, seed=1)
        mask = torch.eye(3, dtype=torch.bool).expand(4, -1, -1)
        pair(tree, state.length[:, None].expand(-1, 3), state, mask)
        state.commit(torch.tensor([[2], [0], [1], [1]]), 1)
        known = [
            torch.cat((tokens[row, :length], tree[row, slot][None]))
            for row, (length, slot) in enumerate(((5, 2), (2, 0), (3, 1), (5, 1)))
        ]
        assert state.length.tolist() == [6, 3, 4, 6] and (state.rows, state.capacity) == (4, 20)
        next = random_tokens(pair, 4, 1, seed=2)
        swapped = state.select(torch.tensor([1, 1, 3, 2]))
        fork = state.fork()
        found, again = pair(next, state=fork).logits, pair(next, state=swapped).logits
        fork.commit(None, 1)
        assert fork.length.tolist() == [7, 4, 5, 7] and state.length.tolist() == [6, 3, 4, 6]
        for row in range(4):
            model = members[row // 2]
            plain = model(torch.cat((known[row], next[row]))[None]).logits[:, -1:]
            assert torch.allclose(found[row], plain[0], atol=1e-5)
            source = [1, 1, 3, 2][row]
            plain = model(torch.cat((known[source], next[row]))[None]).logits[:, -1:]
            assert torch.allclose(again[row], plain[0], atol=1e-5)
        state.reorder(torch.tensor([1, 0, 3, 2]))
        assert state.length.tolist() == [3, 6, 6, 4]


def test_each_has_its_condition():
    members = [small_decoder(layers=1, adaptive=4, seed=seed) for seed in (0, 1)]
    pair, tokens = SideBySide(*members), random_tokens(members[0], 2, 3)
    vectors = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pair(tokens, state=pair.init_state(2, 0, [Conditioning(vector=vector[None]) for vector in vectors])).logits
    for row, model in enumerate(members):
        state = model.init_state(1, 0, Conditioning(vector=vectors[row][None]))
        assert torch.allclose(found[row], model(tokens[row][None], state=state).logits[0], atol=1e-6)


def test_models_and_rows_that_do_not_fit_are_refused(members, pair):
    with pytest.raises(ValueError, match="expected the same of all"):
        SideBySide(members[0], small_decoder((11, 8)))
    with pytest.raises(ValueError, match="side by side"):
        SideBySide()
    for rows, cond in ((3, None), (4, [None])):
        with pytest.raises(ValueError, match="every row once for each model"):
            pair.init_state(rows, 5, cond)
    with pytest.raises(ValueError, match="2 rows, the state 4"):
        pair(random_tokens(pair, 2, 3), state=pair.init_state(4, 5))
    with pytest.raises(ValueError, match="the first model's first"):
        pair.init_state(4, 5).select(torch.tensor([2, 0, 1, 3]))
