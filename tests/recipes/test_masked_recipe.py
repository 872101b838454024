"""Masked decoders learn to find what is hidden, of what is there and nothing else, and runs can be stopped anywhere."""

import json
import math

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, batch, fit
from test_decoder_recipe import decoder as causal
from torch import nn

from zoo.codecs.errors import UserError
from zoo.decoders.conditioned import ConditionedMasked, ConditionedMaskedConfig
from zoo.decoders.conditioning import ConditionConfig
from zoo.decoders.layouts import Delay, Parallel, Raster
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, masked_loss
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.masked import TRAINING, VALIDATION, MaskedRecipe
from zoo.recipes.preview import Preview
from zoo.recipes.tally import IGNORED, Tally

LAYOUT = Parallel(SIZES)


def core(**options) -> TransformerConfig:
    return TransformerConfig(**{"width": 16, "layers": 2, "heads": 2, "causal": False} | options)


def decoder(layout=LAYOUT, transformer=None, **options) -> MaskedDecoder:
    torch.manual_seed(0)
    return MaskedDecoder(MaskedConfig(layout.cards, transformer or core(), context=64, **options))


def recipe(layout=LAYOUT, steps=1, **settings) -> MaskedRecipe:
    settings = {"optimization": QUICK, "preview": None} | settings
    return MaskedRecipe(settings.pop("decoder", None) or decoder(layout), layout, steps, **settings)


def pictures(sizes=((3, 4), (2, 3)), card=9) -> dict:
    """Pictures of different sizes in one batch."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    codes = torch.full((len(sizes), 1, height, width), -1)
    for row, (rows, columns) in enumerate(sizes):
        codes[row, :, :rows, :columns] = torch.randint(card, (1, rows, columns), generator=torch.Generator())
    return {"codes": codes, "lengths": torch.tensor(sizes)}


class Three(Repeats):
    """Three sequences again and again, so that a few codes tell which one it is."""

    def row(self, number):
        return super().row(number % 3)


def test_what_is_hidden_follows_from_seed_and_number_of_the_batch_alone():
    mine, given = recipe(), batch()
    hidden = mine.hide(given, TRAINING, 3)
    torch.manual_seed(99)
    assert torch.equal(hidden.inputs, mine.hide(given, TRAINING, 3).inputs)
    others = [mine.hide(given, TRAINING, 4), mine.hide(given, VALIDATION, 3), recipe(seed=1).hide(given, TRAINING, 3)]
    assert not any(torch.equal(hidden.inputs, other.inputs) for other in others)


def test_the_loss_is_the_surprise_at_hidden_codes_of_a_row_on_its_own():
    """Row by row and without padding, which a batch must not show."""
    mine, given = recipe(masking={"schedule": "linear"}), batch()
    hidden = mine.hide(given, TRAINING, 0)
    found = mine.objective(given, None, 0)
    total = 0.0
    for row, length in enumerate(given["lengths"].tolist()):
        logits = mine.decoder(hidden.inputs[row : row + 1, :length]).logits
        total += masked_loss(logits, hidden.targets[row : row + 1, :length]) * (hidden.targets[row] >= 0).sum()
        assert (hidden.targets[row, length:] == -1).all()
    assert found.tokens == (hidden.targets >= 0).sum() > 0
    torch.testing.assert_close(found.loss, total / found.tokens)


def test_finer_codes_add_their_surprise_in_their_share():
    given, losses = batch(), {}
    for finer in (0.0, 1.0, 0.5):
        mine = recipe(masking={"by_level": True}, finer=finer)
        losses[finer] = mine.objective(given, None, 0)
    hidden = mine.hide(given, TRAINING, 0)
    extra = masked_loss(mine.predict(mine.decoder, hidden, given, None), hidden.finer)
    assert extra > 0 and losses[0.0].parts.keys() == {"cross_entropy"}
    torch.testing.assert_close(losses[1.0].loss, losses[0.0].loss + extra)
    torch.testing.assert_close(losses[0.5].loss, losses[0.0].loss + extra / 2)
    torch.testing.assert_close(losses[0.5].parts["finer"], extra)
    with pytest.raises(UserError, match="finer=0.5"):
        recipe(finer=0.5)


def test_validation_asks_for_all_levels_as_often_whatever_training_does():
    given = batch()
    uneven = recipe(masking={"by_level": True, "levels": [1, 0]})
    even = recipe(masking={"by_level": True})
    assert torch.equal(uneven.hide(given, VALIDATION, 3).inputs, even.hide(given, VALIDATION, 3).inputs)
    assert not torch.equal(uneven.hide(given, TRAINING, 3).inputs, even.hide(given, TRAINING, 3).inputs)


@pytest.mark.parametrize("given", [batch(), pictures()])
def test_what_lies_behind_an_item_changes_no_gradient(given):
    layout = LAYOUT if given["codes"].ndim == 3 else Raster((9,))
    gradients = []
    for filled in (-1, 3):
        mine = recipe(layout, decoder=decoder(layout, core(axes=given["codes"].ndim - 2)))
        batch = given | {"codes": given["codes"].where(given["codes"] >= 0, filled)}
        mine.objective(batch, None, 0).loss.backward()
        gradients.append(mine.decoder.heads.product.weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_pictures_keep_their_rows_and_columns():
    layout, given = Raster((9,)), pictures(((3, 4), (3, 4)))
    mine = recipe(layout, decoder=decoder(layout, core(axes=2)))
    hidden = mine.hide(given, TRAINING, 0)
    places = torch.cartesian_prod(torch.arange(3), torch.arange(4)).expand(2, -1, -1)
    torch.testing.assert_close(mine.predict(mine.decoder, hidden, given, None), mine.decoder(hidden.inputs, places)[0])
    asked = hidden.targets >= 0
    assert torch.equal(hidden.targets[asked], given["codes"].flatten(2).transpose(1, 2)[asked])


def test_cells_that_use_fewer_codebooks_learn_that_there_is_no_code():
    layout, given = Parallel(SIZES, absent=True), batch()
    given["codes"][0, 1, 2] = -1
    hidden = recipe(layout, masking={"schedule": "all"}).hide(given, TRAINING, 0)
    assert hidden.targets[0, 2].tolist() == [given["codes"][0, 0, 2], SIZES[1]]
    with pytest.raises(ValueError, match="absent=True"):
        recipe().hide(given, TRAINING, 0)


@pytest.mark.parametrize(
    ("masking", "bound"),
    [({}, False), ({"schedule": "linear"}, True), ({"by_level": True, "span": 2, "prompt": True}, False)],
)
def test_training_learns_what_is_hidden_from_what_is_not(tmp_path, masking, bound):
    mine = recipe(steps=80, masking=masking, bound=bound, decoder=decoder(levels=True))
    fit(tmp_path, mine, Three(rows=12, epoch_batches=80), val_check_interval=80, limit_val_batches=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/cross_entropy"] for line in lines if "loss/cross_entropy" in line]
    assert losses[0] > 1.5 and losses[-1] < 1.0  # who looks at places alone pays log 3 = 1.1
    assert {f"valid/cross_entropy/codebook {q}" for q in (0, 1)} <= lines[-1].keys()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def made():
        return recipe(steps=20, masking={"by_level": True}, decoder=decoder(transformer=core(dropout=0.2)))

    whole, parts = made(), made()
    fit(tmp_path / "whole", whole, accumulate_grad_batches=2)
    fit(tmp_path / "parts", made(), steps=10, accumulate_grad_batches=2)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, resume=True, accumulate_grad_batches=2)
    assert int(parts.step) == 20 and int(parts.batches) == 40
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_validation_hides_the_same_codes_each_time(tmp_path):
    mine = recipe(steps=2)
    mine.optimization = type(QUICK)(rate=0.0, weight_decay=0.0)
    fit(tmp_path, mine, val_check_interval=1, limit_val_batches=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, second = ({k: v for k, v in line.items() if k != "step"} for line in lines if "valid/bits/code" in line)
    assert first == second


def test_a_bound_is_measured_as_a_mean_of_rows():
    """Rows of one length: bits of a code are the mean over rows of the mean over a row's hidden codes."""
    layout = Parallel((7,))
    mine = recipe(layout, masking={"schedule": "linear"}, bound=True)
    mine.tally = Tally(layout)
    given = {"codes": torch.randint(7, (5, 1, 8)), "lengths": torch.full((5,), 8)}
    found = mine.foretell(mine.decoder, given, None, 0)
    mine.tally.add(found.logits, found.targets, torch.ones(7, dtype=torch.int64), found.weight)
    hidden = mine.hide(given, VALIDATION, 0)
    wanted = masked_loss(found.logits, hidden.targets, bound=True).item() / math.log(2)
    assert mine.tally.sums[1].item() == pytest.approx(5 * 8)
    assert {name: score.value for name, score in mine.summary().items()} == {
        "cross_entropy/codebook 0": pytest.approx(wanted * math.log(2)),
        "bits/code": pytest.approx(wanted),
        "bits/byte": pytest.approx(wanted),
    }
    assert (found.targets == IGNORED).any()
    assert wanted != pytest.approx(masked_loss(found.logits, hidden.targets).item() / math.log(2), rel=1e-6)


def test_codebooks_that_are_never_hidden_have_no_score():
    mine = recipe(masking={"by_level": True, "first": 1})
    found = mine.foretell(mine.decoder, batch(), None, 0)
    mine.tally.add(found.logits, found.targets)
    assert "cross_entropy/codebook 1" in (scores := mine.summary()) and "cross_entropy/codebook 0" not in scores


def test_in_half_precision_the_loss_is_a_float32(tmp_path):
    mine = recipe(steps=3)
    fit(tmp_path, mine, precision="bf16-mixed")
    assert mine._report["cross_entropy"].dtype == torch.float32 and mine._report["cross_entropy"].isfinite()


def conditioned(layout=LAYOUT) -> ConditionedMasked:
    torch.manual_seed(0)
    config = MaskedConfig(layout.cards, core(cross=16), context=64)
    model = ConditionedMasked(ConditionedMaskedConfig(ConditionConfig(width=16, classes=3), config))
    nn.init.normal_(model.encoder.tables["labels"].table.weight)  # large enough to tell apart
    return model


def test_conditions_are_learned_from_and_left_out_in_their_share_of_rows(tmp_path):
    labels = []

    class Spy(MaskedRecipe):
        def objective(self, batch, cond, number):
            labels.append(cond.labels.clone())
            return super().objective(batch, cond, number)

    mine = Spy(conditioned(), LAYOUT, 25, condition_dropout=0.25, preview=None)
    fit(tmp_path, mine, Repeats(epoch_batches=25))
    assert 12 <= (torch.cat(labels) < 0).sum() <= 39  # of 100 rows a quarter
    assert mine.decoder.encoder.tables["labels"].table.weight.grad.abs().max() > 0


@pytest.mark.parametrize("masking", [{}, {"by_level": True, "first": 1}, {"schedule": "linear"}])
def test_a_sample_keeps_what_is_given_and_fills_in_the_rest(masking):
    mine = recipe(masking=masking, preview=Preview(prompt=0.5, steps=3), decoder=conditioned())
    given = batch(frames=6)
    given = {name: value[1:] for name, value in given.items()}  # its first item has 4 frames of 6, or fewer
    length = int(given["lengths"][0])
    media = mine.sample(mine.decoder, given, mine.conditions(given).rows(slice(1)))
    assert media["sample"].shape == media["target"].shape == (2, length) and length < 6
    count = int(media["given"])
    assert count == round(0.5 * length)
    assert torch.equal(media["sample"][:, :count], media["target"][:, :count])
    assert (media["sample"] >= 0).all() and not torch.equal(media["sample"], media["target"])
    if masking.get("first"):
        assert torch.equal(media["sample"][0], media["target"][0])


def test_a_picture_may_be_drawn_from_nothing_in_its_own_size():
    layout = Raster((9,))
    mine = recipe(layout, decoder=decoder(layout, core(axes=2)), preview=Preview(prompt=0.0, steps=3))
    media = mine.sample(mine.decoder, pictures(((2, 3), (3, 4))), None)
    assert media["sample"].shape == (1, 2, 3) and int(media["given"]) == 0 and (media["sample"] >= 0).all()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="not causal"):
        recipe(decoder=causal(LAYOUT))
    for layout in (Delay(SIZES), Parallel(SIZES, begin=True), Parallel(SIZES, end=True), Raster(SIZES, row_end=True)):
        with pytest.raises(UserError, match="fill in cells"):
            recipe(layout)
    with pytest.raises(UserError, match="make them the same"):
        recipe(Parallel((7, 6)), decoder=decoder())
    with pytest.raises(UserError, match="leave them out"):
        recipe(masking={"cards": (7, 6)})
    with pytest.raises(UserError, match="did you mean 'schedule'"):
        recipe(masking={"schedul": "linear"})
    with pytest.raises(UserError, match="nothing to hide"):
        recipe(masking={"first": 2})
    with pytest.raises(UserError, match="codebooks of .8, 5. codes"):
        fit(tmp_path, recipe(), Repeats(sizes=(8, 5)))
