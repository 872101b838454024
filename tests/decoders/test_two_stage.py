"""The first stage says how long and what coarsely, the second adds the rest, both as their own parts would alone."""

from __future__ import annotations

import pytest
import torch

from zoo.decoders.conditioning import ConditionConfig, Conditions
from zoo.decoders.sampling import Law, Noise, guidance
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.two_stage import TwoStageConfig, TwoStageDecoder

SIZES = (6, 5, 4)
COARSE, FINE = TransformerConfig(16, 1, heads=2), TransformerConfig(16, 1, heads=2, causal=False)
CLASSES = ConditionConfig(16, classes=3, way="prefix")
GREEDY = Law(temperature=0)


def two_stages(group: int = 2, sizes: tuple[int, ...] = SIZES, random: bool = True) -> TwoStageDecoder:
    torch.manual_seed(0)
    model = TwoStageDecoder(TwoStageConfig(sizes, COARSE, FINE, group, context=20, condition=CLASSES))
    if not random:
        return model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


COND = Conditions(torch.tensor([2, 0, -1]))


def codes_of(rows: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(size, (rows, frames), generator=generator) for size in SIZES], 1)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_each_stage_is_drawn_from_its_own_model(group):
    """Greedily and without memory: the group that follows, then codebook by codebook all frames at once."""
    model = two_stages(group)
    prompt = codes_of(3, 4)
    codes, lengths = model.generate(3, 6, GREEDY, cond=COND, prompt=prompt)
    known = 4 // group * group
    for row in range(3):
        own = Conditions(COND.labels[row : row + 1])
        length = int(lengths[row])
        steps = model.layout.pack(prompt[row : row + 1, :1, :known])[:, : 1 + known // group]
        while steps.shape[1] < 1 + -(-(known + 6) // group) and not (steps == model.layout.end_id).any():
            logits = model.coarse(steps, state=model.coarse.init_state(1, 0, own)).logits
            steps = torch.cat((steps, logits[:, -1:].argmax(-1)), 1)
        assert length == model.layout.lengths(steps, (known + 6,)).item()
        first = model.layout.unpack(steps, (known + 6,))[0, 0, :length]
        tokens = torch.tensor(SIZES).expand(length, 3).clone()
        tokens[:, 0], tokens[:known] = first, prompt[row, :, :known].T
        for level in (1, 2):
            logits = model.fine(tokens[None], state=model.fine.init_state(1, 0, own)).logits[0]
            tokens[known:, level] = logits[known:, level].argmax(-1)
        assert torch.equal(codes[row, :, :length], tokens.T)
        assert (codes[row, :, length:] == -1).all()


def test_what_is_drawn_depends_on_seed_and_row_alone():
    model = two_stages()
    codes, lengths = model.generate(3, 6, noise=Noise(3), cond=COND, fine_law=Law())
    alone, length = model.generate(1, 6, noise=Noise(3, rows=(1,)), cond=Conditions(COND.labels[1:2]), fine_law=Law())
    assert length == lengths[1] and torch.equal(alone[0], codes[1, :, : int(length)])


def test_a_row_that_ends_at_once_has_no_codes():
    model = two_stages()
    with torch.no_grad():
        model.coarse.decoder.heads.product.weight[model.layout.end_id] *= 100
    runs = [model.generate(3, 6, noise=Noise(seed), cond=COND) for seed in range(4)]
    assert any(0 in lengths for _, lengths in runs) and any(lengths.max() > 0 for _, lengths in runs)
    for codes, lengths in runs:
        assert codes.shape == (3, 3, lengths.max())
        there = torch.arange(codes.shape[2]) < lengths[:, None]
        assert torch.equal((codes >= 0).all(1), there) and torch.equal((codes >= 0).any(1), there)


def test_gradients_of_both_losses_reach_every_weight():
    model = two_stages().train()
    losses = model.losses(codes_of(3, 7), torch.Generator().manual_seed(0), torch.tensor([7, 4, 5]), COND)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_what_lies_behind_the_length_of_a_row_does_not_count():
    model = two_stages()
    codes, lengths = codes_of(2, 6), torch.tensor([6, 3])  # the second is cut to a whole group of two
    other = codes.clone()
    other[1, :, 2:] = 0
    for kind, loss in model.losses(codes, torch.Generator().manual_seed(0), lengths).items():
        torch.testing.assert_close(loss, model.losses(other, torch.Generator().manual_seed(0), lengths)[kind])


def test_requests_that_do_not_fit_are_refused():
    model = two_stages()
    with pytest.raises(ValueError, match="ask for fewer"):
        model.generate(1, 21)
    with pytest.raises(ValueError, match="a prompt"):
        model.generate(1, 4, prompt=codes_of(2, 4))
    with pytest.raises(ValueError, match="second stage"):
        TwoStageConfig((6,), COARSE, FINE)


def test_both_stages_learn_what_their_class_says_and_how_long():
    """Class c lasts 2 c + 2 frames, whose codes count from c and from 2 c; guessing costs 1.1 nats a code."""
    model = two_stages(sizes=(3, 3), random=False).train()
    labels, lengths, time = torch.arange(3), torch.tensor([2, 4, 6]), torch.arange(6)
    codes = torch.stack([(labels[:, None] + time) % 3, (2 * labels[:, None] + time) % 3], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        cond = Conditions(labels).dropped(0.1, Noise(0), step)
        losses = model.losses(codes, generator, lengths, cond)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found, found_lengths = model.eval().generate(3, 8, Law(0, streams=guidance(1.5)), cond=Conditions(labels))
    assert torch.equal(found_lengths, lengths)
    assert torch.equal(found, codes.where(time < lengths[:, None, None], -1))
