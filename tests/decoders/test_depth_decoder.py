"""The codes of a frame depend on each other, in order, and on no other frame's but through the hidden state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_decoders import random_tokens

from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.sampling import Law, decode
from zoo.decoders.transformer import TransformerConfig

CARDS = (7, 5, 6)
CORE, SMALL = TransformerConfig(16, 2, heads=2), TransformerConfig(8, 1, heads=2)


def depth_decoder(**options: Any) -> DepthDecoder:
    torch.manual_seed(0)
    model = DepthDecoder(DepthConfig(**({"cards": CARDS, "transformer": CORE, "depth": SMALL} | options)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


@pytest.fixture
def model():
    return depth_decoder()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs)


def test_logits_of_a_code_know_the_codes_before_it_and_none_behind(model):
    codes, hidden = random_tokens(model, 2, 3), torch.randn(2, 3, 16).double()
    logits = model.depth(hidden, codes)
    assert logits.dtype == torch.float32 and logits.shape == (2, 3, 3, 7)
    for book in range(3):
        changed = codes.clone()
        changed[0, 1, book] = (changed[0, 1, book] + 1) % CARDS[book]
        moved = (model.depth(hidden, changed) - logits).nan_to_num().abs().amax(-1) > 1e-6
        assert moved[0, 1].tolist() == [False] * (book + 1) + [True] * (2 - book)
        moved[0, 1] = False
        assert not moved.any()


def test_no_token_comes_out_behind_the_card_of_its_codebook(model):
    codes, hidden = random_tokens(model, 1, 2), torch.randn(1, 2, 16).double()
    for logits in (model.depth(hidden, codes), model(codes).logits):
        for book, card in enumerate(CARDS):
            assert logits[..., book, :card].isfinite().all() and (logits[..., book, card:] == -torch.inf).all()


def test_the_forward_pass_gives_the_law_of_the_first_code_and_knows_nothing_of_the_others(model):
    output = model(random_tokens(model, 2, 3))
    close(output.logits[..., 0, :], model.depth(output.hidden, random_tokens(model, 2, 3, seed=1))[..., 0, :])
    assert not output.logits[..., 1, :5].any()


def test_one_code_after_the_other_gives_what_all_at_once_give(model):
    """Each call knows the codes before alone; the others are zeros."""
    codes, hidden = random_tokens(model, 2, 3), torch.randn(2, 3, 16).double()
    whole = model.depth(hidden, codes)
    for book in range(3):
        known = codes * (torch.arange(3) < book)
        close(model.depth(hidden, known)[..., book, :], whole[..., book, :])


def test_frames_with_memory_give_the_hidden_states_of_frames_without(model):
    tokens = random_tokens(model, 2, 6)
    state, parts = model.init_state(2, 6), []
    for part in tokens.split((2, 1, 3), 1):
        parts.append(model(part, state=state).hidden)
        state.commit(None, part.shape[1])
    close(torch.cat(parts, 1), model(tokens).hidden)


def test_greedy_decoding_takes_the_best_code_given_those_before_it(model):
    begin = random_tokens(model, 2, 1)
    result = decode(model, begin, 3, Law(temperature=0))
    known = begin
    for _ in range(3):
        hidden = model(known).hidden[:, -1:]
        frame = torch.zeros(2, 1, 3, dtype=torch.int64)
        for book in range(3):
            frame[..., book] = model.depth(hidden, frame)[..., book, :].argmax(-1)
        known = torch.cat((known, frame), 1)
    assert torch.equal(result.codes, known[:, 1:])


def test_tokens_that_only_go_in_may_stand_in_a_frame():
    model = depth_decoder(specials=2)
    codes = random_tokens(model, 1, 2)
    codes[0, 0] = torch.tensor(CARDS) + 1  # padding
    assert model.depth(model(codes).hidden, codes).logsumexp(-1).isfinite().all()


def test_gradients_reach_every_weight():
    model = depth_decoder().train()
    codes = random_tokens(model, 2, 5)
    model.depth(model(codes).hidden, codes).logsumexp(-1).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert model.info.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"), [({"cards": (7,)}, "two or more"), ({"tied": True}, "belong to the depth transformer")]
)
def test_configurations_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        depth_decoder(**options)


def test_codes_that_are_equal_within_a_frame_are_learned_where_parallel_heads_could_only_guess():
    """The first code is drawn anew in each frame, the others repeat it: log 4 = 1.39 for it, 0 for them."""
    model = DepthDecoder(DepthConfig((4, 4, 4), CORE, depth=SMALL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(50):
        frames = torch.randint(4, (16, 4, 1), generator=torch.Generator().manual_seed(step)).expand(-1, -1, 3)
        logits = model.depth(model(frames[:, :-1]).hidden, frames[:, 1:])
        losses = torch.nn.functional.cross_entropy(logits.permute(0, 3, 1, 2), frames[:, 1:], reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    first, second, third = losses.mean((0, 1)).tolist()
    assert max(second, third) < 0.1 and 1.2 < first < 1.8
