"""Masked decoders fill in what is hidden, see no farther than they may, and training hides what decoding will ask."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_decoders import CARDS, random_tokens

from zoo.decoders.conditioning import ConditionConfig, ConditionedDecoder, Conditions
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, Masking, masked_loss
from zoo.decoders.sampling import Law, decode_masked
from zoo.decoders.transformer import TransformerConfig


def masked_decoder(cards: tuple[int, ...] = CARDS, layers: int = 2, **options: Any) -> MaskedDecoder:
    torch.manual_seed(0)
    core = TransformerConfig(16, layers, heads=2, causal=False)
    model = MaskedDecoder(MaskedConfig(cards, core, **options)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes_of(rows: int, places: int, cards: tuple[int, ...] = CARDS) -> torch.Tensor:
    return torch.stack([torch.randint(card, (rows, places), generator=seeded()) for card in cards], -1)


def test_the_share_of_hidden_codes_follows_the_schedule():
    """Means over rows of a uniform turn u: cos(u pi / 2) has 2 / pi, u has 1 / 2; four standard errors are 0.03."""
    codes = codes_of(2000, 10)
    for schedule, mean in [("cosine", 2 / math.pi), ("linear", 0.5), ("all", 1.0)]:
        hidden = Masking(CARDS, schedule=schedule).mask_for_training(codes, seeded())
        count = (hidden.targets >= 0).sum((1, 2))
        assert count.min() >= 1 and count.max() == 20
        assert abs(count.float().mean() / 20 - mean) < 0.03 + 0.5 / 20  # whole codes: half a code more on average


def test_hidden_codes_are_masked_and_asked_for_and_all_others_are_there():
    codes = codes_of(50, 6)
    inputs, targets, *_ = Masking(CARDS).mask_for_training(codes, seeded())
    hidden = targets >= 0
    assert torch.equal(targets[hidden], codes[hidden])
    assert torch.equal(inputs, torch.where(hidden, torch.tensor(CARDS), codes))


@pytest.mark.parametrize("first", [0, 1])
def test_by_level_coarser_codes_are_there_and_finer_ones_neither_there_nor_asked_for(first):
    cards = (5, 5, 5)
    codes = codes_of(300, 6, cards)
    inputs, targets, *_ = Masking(cards, by_level=True, first=first).mask_for_training(codes, seeded())
    level = (targets >= 0).any(1).int().argmax(1)
    assert sorted(set(level.tolist())) == list(range(first, 3))
    for row, at in enumerate(level.tolist()):
        assert torch.equal(inputs[row, :, :at], codes[row, :, :at])
        assert (inputs[row, :, at + 1 :] == 5).all()
        assert (targets[row, :, :at] == -1).all() and (targets[row, :, at + 1 :] == -1).all()


def test_finer_codes_that_are_masked_are_told_apart_from_what_is_hidden():
    codes = codes_of(100, 6, (5, 5, 5))
    hidden = Masking((5, 5, 5), by_level=True).mask_for_training(codes, seeded())
    masked, finer = hidden.inputs == 5, hidden.finer >= 0
    assert torch.equal(masked, finer | (hidden.targets >= 0)) and not (finer & (hidden.targets >= 0)).any()
    assert torch.equal(hidden.finer[finer], codes[finer])
    assert (Masking((5, 5, 5)).mask_for_training(codes, seeded()).finer == -1).all()


def test_levels_are_hidden_as_often_as_said():
    """Of 4,000 rows 0, 3/4 and 1/4; four standard errors are 110."""
    masking = Masking((5, 5, 5), by_level=True, levels=(0.0, 3.0, 1.0))
    hidden = masking.mask_for_training(codes_of(4000, 4, (5, 5, 5)), seeded())
    counts = (hidden.targets >= 0).any(1).int().argmax(1).bincount(minlength=3).tolist()
    assert counts[0] == 0 and abs(counts[1] - 3000) < 110


def test_levels_that_can_not_be_hidden_as_often_as_said_are_refused():
    with pytest.raises(ValueError, match="by_level"):
        Masking(CARDS, levels=(1.0, 1.0))
    for levels, first in [((1.0,), 0), ((1.0, -1.0), 0), ((1.0, 0.0), 1)]:
        with pytest.raises(ValueError, match="how often"):
            Masking(CARDS, by_level=True, first=first, levels=levels)


def test_spans_are_hidden_whole():
    """Runs end only where they are as long as a span, or at the end of the row."""
    inputs, *_ = Masking((9,), span=3).mask_for_training(codes_of(100, 12, (9,)), seeded())
    shorter = 0
    for row in (inputs[..., 0] == 9).int().tolist():
        runs = "".join(map(str, row)).split("0")
        shorter += sum(0 < len(run) < 3 for run in runs[:-1])
    assert shorter == 0
    assert 0.3 < (inputs == 9).float().mean() < 0.9


def test_a_prompt_keeps_all_its_codebooks():
    codes = codes_of(200, 8)
    inputs, targets, *_ = Masking(CARDS, by_level=True, schedule="all", prompt=True).mask_for_training(codes, seeded())
    masked = (inputs == torch.tensor(CARDS)).any(2)
    begin = masked.int().argmax(1)
    assert set(begin.tolist()) == set(range(8))
    assert torch.equal(masked, torch.arange(8) >= begin[:, None])  # all behind the prompt, nothing in it
    assert ((targets >= 0).any(2) == masked).all()


def test_places_behind_the_end_of_a_row_are_never_hidden_and_never_seen():
    codes = codes_of(3, 6)
    codes[1, 4:], codes[2] = -1, -1
    hidden = Masking(CARDS, schedule="all").mask_for_training(codes, seeded())
    assert (hidden.targets >= 0).sum((1, 2)).tolist() == [12, 8, 0]
    assert (hidden.inputs[1, 4:] == 0).all()
    model = masked_decoder(levels=True, windows=(0, 2))
    logits = model(hidden.inputs, block_mask=hidden.visible).logits
    alone = model(hidden.inputs[1:2, :4]).logits
    torch.testing.assert_close(logits[1, :4], alone[0])
    assert masked_loss(logits, hidden.targets).isfinite()


def test_the_loss_is_the_mean_over_hidden_codes_or_over_rows():
    logits = torch.zeros(2, 2, 1, 4)
    logits[1, 0, 0, 3] = math.log(7)  # 7 of 7 + 3
    targets = torch.tensor([[[0], [1]], [[3], [-1]]])
    sure, unsure = -math.log(0.7), math.log(4)
    assert masked_loss(logits, targets).item() == pytest.approx((2 * unsure + sure) / 3)
    assert masked_loss(logits, targets, bound=True).item() == pytest.approx((unsure + sure) / 2)


def test_a_window_hides_what_is_farther_at_its_own_level_alone():
    """One layer, so that what is seen is not passed on. Row 0 is at level 0, which sees all; row 1 at level 1."""
    model = masked_decoder(layers=1, windows=(0, 2))
    tokens = random_tokens(model, 2, 8)
    tokens[0], tokens[1, 3, 1] = torch.tensor(CARDS), CARDS[1]
    changed = tokens.clone()
    changed[:, 7, 0] = 4
    moved = (model(changed).logits - model(tokens).logits).nan_to_num().abs().amax((2, 3)) > 1e-9
    assert moved[0].all()
    assert moved[1].tolist() == [False] * 5 + [True] * 3


def test_a_window_in_a_grid_is_a_square():
    torch.manual_seed(0)
    core = TransformerConfig(16, 1, heads=2, causal=False, axes=2)
    model = MaskedDecoder(MaskedConfig((9,), core, windows=(1,))).double().eval()
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(3))[None]
    tokens = torch.full((1, 9, 1), 9)
    changed = tokens.clone()
    changed[0, 0] = 1  # the corner is seen by the four cells around it
    moved = (model(changed, grid).logits - model(tokens, grid).logits).abs().amax((2, 3))[0] > 1e-12
    assert moved.view(3, 3).int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_gradients_reach_every_weight():
    model = masked_decoder(levels=True, windows=(0, 2)).train()
    codes = codes_of(8, 5)
    hidden = Masking(CARDS, by_level=True).mask_for_training(codes, seeded())
    masked_loss(model(hidden.inputs, block_mask=hidden.visible).logits, hidden.targets).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("steps", [3, (2, 1)])
def test_decoding_fills_every_place_keeps_what_is_known_and_does_not_mix_rows(steps):
    model = masked_decoder(levels=True, windows=(0, 2))
    prompt = codes_of(3, 5)
    prompt[:, 1:4] = -1
    prompt[0, 2, 0] = 3
    result = decode_masked(model, prompt, steps, Law(temperature=0))
    assert (result.codes >= 0).all()
    assert torch.equal(result.codes.where(prompt >= 0, -1), prompt)
    for row in range(3):
        alone = decode_masked(model, prompt[row : row + 1], steps, Law(temperature=0))
        assert torch.equal(alone.codes[0], result.codes[row])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"specials": 0}, "mask token"), ({"windows": (0,)}, "give each one"), ({"windows": (-1, 2)}, "0 for everything")],
)
def test_configurations_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        masked_decoder(**options)


def test_a_causal_transformer_and_impossible_maskings_are_refused():
    with pytest.raises(ValueError, match="causal=False"):
        MaskedConfig((3,), TransformerConfig(16, 1, 2))
    with pytest.raises(ValueError, match="nothing to hide"):
        Masking((3,), first=1)
    with pytest.raises(ValueError, match="expected"):
        Masking((3,)).mask_for_training(codes_of(1, 2), seeded())


def trained(model, masking, codes, labels=None, bound=False, steps=150):
    model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    generator, losses = seeded(), []
    for _ in range(steps):
        hidden = masking.mask_for_training(codes, generator)
        state = None if labels is None else model.init_state(len(codes), 0, Conditions(labels))
        loss = masked_loss(model(hidden.inputs, state=state, block_mask=hidden.visible).logits, hidden.targets, bound)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return sum(losses[-5:]) / 5


def test_a_class_conditional_decoder_learns_its_pictures_level_by_level():
    """Class c counts up from c; the second codebook is twice the first one, modulo 3. Guessing costs 1.1 nats."""
    cards = (3, 3)
    counted = (torch.arange(3)[:, None] + torch.arange(4)) % 3
    codes = torch.stack([counted, 2 * counted % 3], -1)
    core = TransformerConfig(16, 1, heads=2, causal=False, adaptive=16)
    decoder = MaskedDecoder(MaskedConfig(cards, core, levels=True))
    model = ConditionedDecoder(ConditionConfig(16, classes=3, pooled=("labels",)), decoder)
    loss = trained(model, Masking(cards, by_level=True), codes.repeat(4, 1, 1), torch.arange(3).repeat(4))
    assert loss < 0.1
    drawn = decode_masked(model, (3, 4), (2, 1), cond=Conditions(torch.arange(3)))
    assert torch.equal(drawn.codes, codes)


def test_a_masked_diffusion_language_model_learns_two_sentences():
    """With nothing known only which of the two is open: log 2 for the first token found, then nothing."""
    text = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 0, 2, 1]])[..., None]
    model = MaskedDecoder(MaskedConfig((5,), TransformerConfig(16, 1, heads=2, causal=False)))
    loss = trained(model, Masking((5,), schedule="linear"), text.repeat(8, 1, 1), bound=True)
    assert loss < 0.5  # guessing costs log 5 = 1.6; the least possible is log(2) / 5 a code = 0.14
    drawn = decode_masked(model, (6, 5), 5, schedule="linear").codes
    assert sum(any(torch.equal(row, sentence) for sentence in text) for row in drawn) >= 5
