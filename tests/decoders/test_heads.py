"""Heads look ahead from a decoder's hidden states, each as far as its number says."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.heads import HeadsConfig, MultiTokenHeads


@pytest.fixture(params=[False, True], ids=["medusa", "hydra"])
def heads(request):
    torch.manual_seed(0)
    return MultiTokenHeads(HeadsConfig.of(small_decoder(specials=1).info, 3, sequential=request.param)).double()


def between_of(heads, tokens, head):
    return tokens[:, None, : head + 1].expand(-1, 4, -1, -1) if heads.config.sequential else None


def test_heads_begin_as_the_decoders_own_head(heads):
    model = small_decoder(specials=1, tied=True)
    heads.start_from(model)
    output = model(random_tokens(model, 2, 4))
    for head in range(3):
        if heads.config.sequential:
            torch.nn.init.zeros_(heads.between[head].weight)
        logits = heads(output.hidden, head, between_of(heads, random_tokens(model, 2, 3), head))
        torch.testing.assert_close(logits, output.logits)


def test_only_sequential_heads_read_the_steps_between_and_need_them():
    hydra = MultiTokenHeads(HeadsConfig.of(small_decoder().info, 3, sequential=True)).double()
    hidden, tokens = torch.randn(2, 4, 16).double(), random_tokens(small_decoder(), 2, 3)
    logits = hydra(hidden, 1, between_of(hydra, tokens, 1))
    for step in range(2):
        changed = tokens.clone()
        changed[0, step, 0] = (changed[0, step, 0] + 1) % 11
        moved = (hydra(hidden, 1, between_of(hydra, changed, 1)) - logits).nan_to_num().abs().amax((1, 2, 3))
        assert moved[0] > 1e-6 and moved[1] == 0
    with pytest.raises(ValueError, match="reads 2 steps between"):
        hydra(hidden, 1)
    medusa = MultiTokenHeads(HeadsConfig.of(small_decoder().info, 3)).double()
    with pytest.raises(ValueError, match="reads no steps between"):
        medusa(hidden, 1, between_of(hydra, tokens, 1))


def test_gradients_reach_every_weight_of_the_heads(heads):
    """Blocks and products that begin at zero pass nothing on at first, so all are made random."""
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    heads.losses(torch.randn(2, 8, 16).double(), random_tokens(small_decoder(), 2, 8)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in heads.parameters())


def test_tokens_that_only_go_in_are_not_asked_for(heads):
    hidden, tokens = torch.randn(1, 6, 16).double(), random_tokens(small_decoder(), 1, 6)
    tokens[0, 2:] = torch.tensor([11, 7])  # the mask
    tokens[0, 5] = torch.tensor([3, 3])
    losses = heads.losses(hidden, tokens)
    between = tokens[:, 3:5][:, None] if heads.config.sequential else None  # of slot 2, whose head 1 gives step 5
    logits = heads(hidden[:, 2:3], 1, between)[0, 0]
    torch.testing.assert_close(losses[1], -logits.log_softmax(-1)[:, 3].mean())


def test_each_head_learns_the_step_it_stands_for(heads):
    """The hidden state of a slot says which token stands 2, 3 and 4 steps behind; each head finds its own."""
    stream = torch.randint(7, (64, 12), generator=torch.Generator().manual_seed(0))
    tokens = torch.stack([stream, stream], -1)
    ahead = [torch.nn.functional.one_hot(stream.roll(-step, 1), 7) for step in (2, 3)]
    hidden = torch.cat([*ahead, torch.zeros(64, 12, 2)], -1).float()
    heads = heads.float()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=3e-2)
    for _ in range(40):
        losses = heads.losses(hidden, tokens)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses[:2].max() < 0.1
    assert losses[2] > 1.5  # nothing tells it the step 4 behind: log 7 = 1.9


@pytest.mark.parametrize("sequential", [False, True])
def test_shared_heads_are_the_decoders_own_head_behind_blocks_of_their_own(sequential):
    """The decoder's vectors of the steps between are brought to unit size: they may be of any."""
    model = small_decoder(specials=1)
    heads = MultiTokenHeads(HeadsConfig.of(model.info, 3, sequential=sequential, shared=True)).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    tokens = random_tokens(model, 2, 8)
    hidden, between = model(tokens).hidden, tokens[:, None, :2].expand(-1, 8, -1, -1)
    x = hidden
    if sequential:
        known = model.embedding.table(between + model.embedding.first).sum(3)
        x = x + heads.between[1]((known / known.square().mean(-1, keepdim=True).sqrt()).flatten(2))
    given = (hidden, 1, between if sequential else None)
    torch.testing.assert_close(heads(*given, model), model.heads(heads.blocks[1](x)), rtol=1e-4, atol=1e-4)
    assert not any("product" in name and "blocks" not in name for name, _ in heads.named_parameters())
    with pytest.raises(ValueError, match="give it, too"):
        heads(*given)


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        HeadsConfig((5,), 8, heads=0)
