"""A scale sees all coarser scales and no finer one, and is the same in one pass over all as step by step."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens

from zoo.decoders.conditioning import BYTES, ConditionConfig, ConditionedDecoder, Conditions, text_ids
from zoo.decoders.layouts import NextScale
from zoo.decoders.next_scale import NextScaleConfig, NextScaleDecoder, decode_scales
from zoo.decoders.sampling import Law, Noise, guidance
from zoo.decoders.transformer import TransformerConfig

CARDS, SCALES = (7, 5), ((1, 1), (1, 2), (2, 3))
CORE = TransformerConfig(16, 2, heads=2, causal=False, rope=False, adaptive=16)


def next_scale(cards=CARDS, scales=SCALES, core=CORE, **options) -> ConditionedDecoder:
    torch.manual_seed(0)
    decoder = NextScaleDecoder(NextScaleConfig(cards, scales, core, channels=8), **options)
    return ConditionedDecoder(ConditionConfig(16, classes=3, pooled=("labels",)), decoder)


def with_large_weights(model):
    """In which a wrong mask shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


@pytest.fixture
def model():
    return with_large_weights(next_scale())


COND = Conditions(torch.tensor([2, 0]))


def logits_of(model, tokens, cond=COND):
    return model(tokens, state=model.init_state(len(tokens), 0, cond)).logits


def moved(model, tokens, changed, cond=COND):
    return (logits_of(model, changed, cond) - logits_of(model, tokens)).nan_to_num().abs().amax((2, 3)) > 1e-6


def test_a_cell_sees_every_cell_of_coarser_scales_alone(model):
    tokens = random_tokens(model, 2, 9)
    scale = NextScale(CARDS, scales=SCALES).block_ids((9,))
    for cell in range(9):
        changed = tokens.clone()
        changed[0, cell, 1] = (changed[0, cell, 1] + 1) % 5
        assert torch.equal(moved(model, tokens, changed), torch.stack([scale > scale[cell], scale < 0]))


def test_the_class_reaches_every_cell_of_its_own_row(model):
    tokens = random_tokens(model, 2, 9)
    assert moved(model, tokens, tokens, Conditions(torch.tensor([1, 0]))).tolist() == [[True] * 9, [False] * 9]


def test_scale_by_scale_with_memory_gives_what_one_pass_gives(model):
    tokens, core = random_tokens(model, 2, 9), model.decoder
    whole = logits_of(model, tokens)
    state = model.init_state(2, 9, COND)
    canvas, parts = core.canvas.blank(2, core.begin), []
    for scale, codes in enumerate(tokens.split([1, 2, 6], 1)):
        parts.append(core.step(canvas, scale, state).logits)
        state.commit(None, codes.shape[1])
        canvas = core.canvas.paint(canvas, codes, scale)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(logits_of(model, tokens[:, :3]), whole[:, :3])


def test_a_text_in_front_is_the_same_in_one_pass_and_step_by_step():
    core = TransformerConfig(16, 2, heads=2, causal=False, rope=False)
    reader = TransformerConfig(16, 1, heads=2, causal=False)
    config = ConditionConfig(16, text=BYTES, way="prefix", encoder=reader)
    decoder = NextScaleDecoder(NextScaleConfig(CARDS, SCALES, core, channels=8))
    model = with_large_weights(ConditionedDecoder(config, decoder))
    cond = Conditions(text=text_ids(["ab", ""]))
    found = decode_scales(model, 2, Law(temperature=0), cond=cond).codes
    logits = logits_of(model, found, cond)
    assert torch.equal(logits.argmax(-1), found)
    torch.testing.assert_close(logits[1], model(found).logits[1])
    assert (logits[0] - model(found).logits[0]).nan_to_num().abs().amax((1, 2)).min() > 1e-4


def test_rows_without_class_are_rows_without_condition(model):
    tokens = random_tokens(model, 2, 9)
    torch.testing.assert_close(logits_of(model, tokens, Conditions(torch.tensor([-1, -1]))), model(tokens).logits)


def test_greedy_drawing_takes_the_best_code_of_every_cell(model):
    result = decode_scales(model, 2, Law(temperature=0), cond=COND)
    assert torch.equal(logits_of(model, result.codes).argmax(-1), result.codes)
    assert result.trace.emitted[:, 0].tolist() == [1, 2, 6] and result.trace.target_forwards.sum() == 3


def test_what_is_drawn_depends_on_seed_and_row_alone(model):
    both = decode_scales(model, 2, noise=Noise(5), cond=COND)
    alone = decode_scales(model, 1, noise=Noise(5, rows=(1,)), cond=Conditions(COND.labels[1:]))
    assert torch.equal(both.codes[1], alone.codes[0])
    torch.testing.assert_close(both.logp[1], alone.logp[0])
    assert not torch.equal(decode_scales(model, 2, noise=Noise(6), cond=COND).codes, both.codes)
    law = logits_of(model, both.codes).log_softmax(-1).gather(-1, both.codes[..., None])[..., 0]
    torch.testing.assert_close(both.logp, law)


def test_guidance_is_the_signed_sum_of_rows_with_and_without_class(model):
    law = Law(temperature=0, streams=guidance(3.0))
    codes = decode_scales(model, 2, [law] * 3, cond=Conditions.stack([COND, None])).codes
    summed = 3 * logits_of(model, codes) - 2 * model(codes).logits
    assert torch.equal(summed.nan_to_num(-torch.inf).argmax(-1), codes)


def test_gradients_reach_every_weight(model):
    model.train()
    cond = Conditions(torch.tensor([2, -1]))
    logits_of(model, random_tokens(model, 2, 9), cond).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


class Averages:
    """A canvas without weights: codes are their own numbers, and each scale reads the mean of all so far."""

    channels = 1

    def blank(self, rows, like):
        return like.new_zeros(rows, 1, 1, 1)

    def paint(self, canvas, codes, scale):
        return canvas + codes.to(canvas.dtype).mean((1, 2))[:, None, None, None]

    def read(self, canvas, scale):
        rows, columns = SCALES[scale]
        return canvas.flatten(1)[:, None].expand(-1, rows * columns, -1)


def test_a_decoder_reads_from_whatever_canvas_it_is_given():
    model = next_scale(canvas=Averages()).eval()
    tokens = random_tokens(model, 2, 9)
    swapped = tokens.clone()
    swapped[:, 1:3] = tokens[:, 1:3].flip(1)
    torch.testing.assert_close(logits_of(model, tokens), logits_of(model, swapped))


def test_parts_of_scales_laws_of_other_scales_and_causal_cores_are_refused(model):
    with pytest.raises(ValueError, match="first few scales"):
        model(random_tokens(model, 2, 8))
    with pytest.raises(ValueError, match="`step`"):
        model(random_tokens(model, 2, 9), state=model.init_state(2, 9))
    with pytest.raises(ValueError, match="2 laws"):
        decode_scales(model, 2, [Law()] * 2)
    with pytest.raises(ValueError, match="not causal"):
        NextScaleConfig(CARDS, SCALES, TransformerConfig(16, 1, 2))


def test_a_decoder_learns_its_pictures():
    """Class c is a picture whose cells count up from c at each scale; a coarser scale says how the next one begins."""
    labels = torch.arange(3)
    counted = torch.cat([torch.arange(rows * columns) for rows, columns in SCALES])
    codes = ((labels[:, None] + counted) % 3)[..., None]
    core = TransformerConfig(16, 1, heads=2, causal=False, rope=False, adaptive=16)
    model = next_scale((3,), SCALES, core).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(40):
        logits = logits_of(model, codes, Conditions(labels))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # guessing costs log 3 = 1.1
    assert torch.equal(decode_scales(model.eval(), 3, Law(temperature=0), cond=Conditions(labels)).codes, codes)
