"""Decoders learn the next step: of what is there and nothing else, in the same way however batches are parted."""

import pytest
import torch
from lightning.pytorch import Trainer
from test_codec_recipe import trainer
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.utils.data import DataLoader

from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.layouts import CoarseFirst, Delay, FrameDepth, Parallel, Raster
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.data.stream import BatchStream, ResumableDataModule
from zoo.recipes.decoder import DecoderRecipe, padding
from zoo.recipes.divergence import divergence
from zoo.recipes.optimization import Optimization
from zoo.recipes.tally import IGNORED, Tally

SIZES = (7, 5)
CORE = TransformerConfig(width=16, layers=2, heads=2)
QUICK = Optimization(rate=1e-2, betas=(0.9, 0.95), weight_decay=0.1, warmup=3, clip=1.0, average=0.8)


def decoder(layout, core=CORE, **options) -> AutoregressiveDecoder:
    torch.manual_seed(0)
    return AutoregressiveDecoder(
        AutoregressiveConfig(layout.cards, core, context=64, specials=layout.specials, **options)
    )


def batch(rows=3, frames=6, sizes=SIZES, seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (rows, frames), generator=generator) for size in sizes], 1)
    lengths = torch.tensor([frames, *torch.randint(2, frames, (rows - 1,), generator=generator).tolist()])
    codes[torch.arange(frames).expand(rows, 1, -1).expand_as(codes) >= lengths[:, None, None]] = -1
    return {"codes": codes, "lengths": lengths, "label": torch.arange(rows)}


class Repeats(ResumableDataModule):
    """Sequences that go round and round, so that the past tells the future; batch i is a pure function of i."""

    def __init__(self, rows=4, frames=12, sizes=SIZES, epoch_batches=8):
        super().__init__(epoch_batches, 0)
        self.rows, self.frames, self.codebook_sizes = rows, frames, sizes

    def row(self, number):
        start = torch.randint(35, (), generator=torch.Generator().manual_seed(number))
        return torch.stack([(start + torch.arange(self.frames)) % size for size in self.codebook_sizes])

    def make(self, number):
        codes = torch.stack([self.row(number * self.rows + k) for k in range(self.rows)])
        return {"codes": codes, "lengths": torch.full((self.rows,), self.frames), "label": codes[:, 0, 0] % 3}

    def train_stream(self, rank, ranks):
        return BatchStream(self.make, self.epoch_batches, rank, ranks)

    def val_dataloader(self):
        return DataLoader([self.make(1000 + k) for k in range(2)], batch_size=None)


def fit(folder, recipe, data=None, steps=None, resume=False, **settings) -> Trainer:
    run = trainer(folder, steps or recipe.steps, **settings)
    last = folder / "last.ckpt" if resume else None
    run.fit(recipe, data or Repeats(), ckpt_path=last, weights_only=True)
    return run


@pytest.mark.parametrize("layout", [Parallel(SIZES, begin=True), Delay(SIZES, end=True, begin=True)])
def test_all_codes_and_the_end_are_targets_and_structure_and_padding_are_none(layout):
    recipe, given = DecoderRecipe(decoder(layout), layout, 1), batch()
    logits, targets = recipe.predict(recipe.decoder, recipe.pack(given), given, None)
    assert logits.shape[:3] == targets.shape
    codes = given["codes"]
    ends = len(codes) if layout.end else 0  # each row has one
    assert (targets != IGNORED).sum() == (codes >= 0).sum() + ends
    for q, size in enumerate(SIZES):
        slot = targets[..., q]
        assert sorted(slot[(slot >= 0) & (slot < size)].tolist()) == sorted(codes[:, q][codes[:, q] >= 0].tolist())


def test_the_loss_is_the_surprise_at_what_comes_next():
    layout = Delay(SIZES, begin=True)
    recipe, given = DecoderRecipe(decoder(layout), layout, 1), batch()
    logits, targets = recipe.predict(recipe.decoder, recipe.pack(given), given, None)
    tokens, total = layout.pack(given["codes"], given["lengths"]), 0.0
    for row, step, slot in (targets != IGNORED).nonzero().tolist():
        before = recipe.decoder(tokens[row : row + 1, : step + 1]).logits[0, -1, slot]
        total -= log_softmax(before, -1)[tokens[row, step + 1, slot]]
    mean = total / (targets != IGNORED).sum()
    torch.testing.assert_close(cross_entropy(logits.flatten(0, 2), targets.flatten()), mean, rtol=1e-5, atol=1e-5)


def test_what_lies_behind_a_sequence_changes_no_gradient():
    layout, gradients = Delay(SIZES, begin=True), []
    for filled in (-1, 3):
        recipe, given = DecoderRecipe(decoder(layout), layout, 1), batch()
        given["codes"] = given["codes"].where(given["codes"] >= 0, filled)
        logits, targets = recipe.predict(recipe.decoder, recipe.pack(given), given, None)
        cross_entropy(logits.flatten(0, 2), targets.flatten()).backward()
        gradients.append(recipe.decoder.heads.product.weight.grad)
    assert torch.equal(*gradients)


def test_codes_of_a_frame_that_depend_on_each_other_are_learned_by_the_depth_transformer():
    layout = FrameDepth(SIZES, begin=True)
    config = DepthConfig(layout.cards, CORE, context=64, specials=layout.specials, depth=CORE)
    recipe, given = DecoderRecipe(DepthDecoder(config), layout, 1), batch()
    tokens = recipe.pack(given)
    logits, targets = recipe.predict(recipe.decoder, tokens, given, None)
    wanted = recipe.decoder.depth(recipe.decoder(tokens[:, :-1]).hidden, tokens[:, 1:])
    torch.testing.assert_close(logits, wanted)
    assert (targets != IGNORED).sum() == (given["codes"] >= 0).sum()


def test_pictures_keep_their_rows_and_columns():
    layout = Raster((9,), begin=True)
    recipe = DecoderRecipe(decoder(layout, TransformerConfig(width=16, layers=1, heads=2, axes=2)), layout, 1)
    given = {"codes": torch.randint(9, (2, 1, 3, 4)), "lengths": torch.tensor([[3, 4], [3, 4]])}
    logits, targets = recipe.predict(recipe.decoder, recipe.pack(given), given, None)
    assert torch.equal(targets[..., 0], given["codes"].flatten(1))
    tokens, places = layout.pack(given["codes"]), layout.positions((3, 4)).expand(2, -1, -1)
    torch.testing.assert_close(logits, recipe.decoder(tokens[:, :-1], places[:, :-1]).logits)


def test_training_learns_what_the_past_tells(tmp_path):
    layout = Delay(SIZES, begin=True)
    recipe = DecoderRecipe(decoder(layout), layout, 60, optimization=QUICK, preview=None)
    run = fit(tmp_path, recipe, Repeats(epoch_batches=60), val_check_interval=60, limit_val_batches=2)
    assert run.global_step == int(recipe.step) == 60
    log = (tmp_path / "train.log").read_text()
    first, last = (float(line.split("cross_entropy ")[1].split()[0]) for line in
                   (next(line for line in log.splitlines() if "step 5 " in line),
                    next(line for line in log.splitlines() if "step 60 " in line)))  # fmt: skip
    assert last < 0.5 * first
    assert "valid 60  codebook 1" in log and "tokens_per_second" in log and "8 items" in log


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    layout = Parallel(SIZES, begin=True)

    def recipe():
        core = TransformerConfig(width=16, layers=2, heads=2, dropout=0.2)  # random, so that resume must reseed
        return DecoderRecipe(decoder(layout, core), layout, 20, optimization=QUICK, preview=None)

    whole, parts = recipe(), recipe()
    whole_run = fit(tmp_path / "whole", whole, accumulate_grad_batches=2)
    fit(tmp_path / "parts", recipe(), steps=10, accumulate_grad_batches=2)  # 20 batches: half of the third epoch
    torch.manual_seed(999)  # a new process would not find the old one's random state
    parts_run = fit(tmp_path / "parts", parts, resume=True, accumulate_grad_batches=2)
    assert int(parts.step) == parts_run.global_step == 20 and int(parts.batches) == 40
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        parts_run.optimizers[0].state_dict(), whole_run.optimizers[0].state_dict(), rtol=0, atol=0
    )


def test_gathering_gradients_of_small_batches_equals_a_large_one(tmp_path):
    layout, weights = Parallel(SIZES, begin=True), []
    for parts in (1, 2):
        recipe = DecoderRecipe(decoder(layout), layout, 5, optimization=QUICK, preview=None)
        fit(tmp_path / str(parts), recipe, Repeats(rows=8 // parts, epoch_batches=10), accumulate_grad_batches=parts)
        assert int(recipe.step) == 5
        weights.append(recipe.decoder.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_and_only_matrices_decay(tmp_path):
    layout = Parallel(SIZES, begin=True)
    recipe = DecoderRecipe(decoder(layout), layout, 2, preview=None)
    groups = recipe.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(weight.ndim == 2 for weight in groups[0]["params"])
    assert all(weight.ndim == 1 for weight in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(recipe.decoder.parameters()))
    for weight in recipe.decoder.parameters():
        weight.grad = torch.ones_like(weight)
    recipe.configure_gradient_clipping(None)
    norms = torch.stack([weight.grad.norm() for weight in recipe.decoder.parameters()])
    assert norms.norm().item() == pytest.approx(recipe.optimization.clip, rel=1e-4)


def conditioned(layout) -> ConditionedAutoregressive:
    torch.manual_seed(0)
    core = TransformerConfig(width=16, layers=1, heads=2, cross=16)
    config = AutoregressiveConfig(layout.cards, core, context=64, specials=layout.specials)
    model = ConditionedAutoregressive(ConditionedConfig(ConditionConfig(width=16, classes=3), config))
    nn.init.normal_(model.encoder.tables["labels"].table.weight)  # large enough to tell apart
    return model


class Alike(Repeats):
    """Sequences of one code throughout, which nothing but a reference tells beforehand."""

    def make(self, number):
        generator = torch.Generator().manual_seed(number)
        codes = torch.stack([torch.randint(size, (self.rows, 1), generator=generator) for size in SIZES], 1)
        codes = codes.expand(-1, -1, self.frames)
        return {
            "codes": codes, "lengths": torch.full((self.rows,), self.frames), "reference": codes[..., :3].mT,
        }  # fmt: skip


def test_a_reference_is_learned_from_where_the_data_has_one(tmp_path):
    layout = Parallel(SIZES, begin=True)
    reader = TransformerConfig(width=16, layers=1, heads=2, causal=False)
    conditions = ConditionConfig(width=16, reference=SIZES, way="prefix", encoder=reader)
    config = AutoregressiveConfig(layout.cards, CORE, context=64, specials=layout.specials)
    torch.manual_seed(0)
    model = ConditionedAutoregressive(ConditionedConfig(conditions, config))
    recipe = DecoderRecipe(model, layout, 120, optimization=QUICK, preview=None)
    data = Alike(rows=16, frames=4, epoch_batches=120)
    fit(tmp_path, recipe, data)
    given = data.make(999)
    tokens, cond = recipe.pack(given), recipe.conditions(given)
    with torch.no_grad():
        first = {told: model(tokens[:, :1], state=model.init_state(16, 0, told)).logits[:, 0] for told in (cond, None)}
    codes = given["codes"][..., 0]
    assert (
        (first[cond].argmax(-1) == codes).float().mean() > 0.9 > 0.5 > (first[None].argmax(-1) == codes).float().mean()
    )
    del given["reference"]
    with pytest.raises(UserError, match="the data has none; ask for some: --data.reference=FRAMES"):
        recipe.conditions(given)


def test_conditions_are_learned_from_and_left_out_in_their_share_of_rows(tmp_path):
    layout, given = Parallel(SIZES, begin=True), batch()
    recipe = DecoderRecipe(conditioned(layout), layout, 1)
    tokens, conditions = recipe.pack(given), recipe.conditions(given)
    assert conditions.labels.tolist() == [0, 1, 2]
    seen, _ = recipe.predict(recipe.decoder, tokens, given, conditions)
    other, _ = recipe.predict(
        recipe.decoder, tokens, given, recipe.conditions(given | {"label": torch.tensor([1] * 3)})
    )
    assert torch.allclose(seen[1], other[1]) and not torch.allclose(seen[0], other[0])
    labels = []

    class Spy(DecoderRecipe):
        def predict(self, decoder, tokens, batch, cond):
            labels.append(cond.labels.clone())
            return super().predict(decoder, tokens, batch, cond)

    recipe = Spy(conditioned(layout), layout, 25, condition_dropout=0.25, preview=None)
    fit(tmp_path, recipe, Repeats(epoch_batches=25))
    # Of 100 rows a quarter; in one seed of 400 it is none of 12 .. 39.
    assert 12 <= (torch.cat(labels) < 0).sum() <= 39
    assert recipe.decoder.encoder.tables["labels"].table.weight.grad is not None


def test_a_teachers_law_is_met_where_its_divergence_is_zero():
    logits, targets = torch.randn(2, 3, 1, 5), torch.randint(5, (2, 3, 1))
    targets[0, 0] = IGNORED
    assert divergence(logits, logits + 3, targets, 2.0).abs() < 1e-6
    law, student = (torch.softmax(each[targets != IGNORED] / 2, -1) for each in (torch.ones(2, 3, 1, 5), logits))
    wanted = 4 * (law * (law / student).log()).sum(-1).mean()  # the temperature, squared
    torch.testing.assert_close(divergence(logits, torch.ones(2, 3, 1, 5), targets, 2.0), wanted)


def test_tokens_that_a_smaller_codebook_lacks_have_no_part_in_the_divergence():
    logits, targets = torch.randn(1, 2, 2, 4, requires_grad=True), torch.zeros(1, 2, 2, dtype=torch.int64)
    lacking = torch.zeros(2, 4).index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(-torch.inf))
    loss = divergence(logits + lacking, torch.zeros(1, 2, 2, 4) + lacking, targets, 1.0)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_the_tally_is_in_nats_of_a_codebook_bits_of_a_code_and_bits_of_a_byte():
    tally, sizes = Tally(Parallel((4,))), torch.tensor([2, 3, 1, 0])
    targets = torch.tensor([[[0], [1], [3], [IGNORED]]])
    tally.add(torch.zeros(1, 4, 1, 4), targets, sizes)  # each token has probability 1/4
    scores = {name: score.value for name, score in tally.take().items()}
    assert scores["cross_entropy/codebook 0"] == pytest.approx(torch.tensor(4.0).log().item())
    assert scores["bits/code"] == pytest.approx(2.0)
    assert scores["bits/byte"] == pytest.approx(3 * 2.0 / 5)  # the third token, the end, has no bytes but costs bits
    assert tally.sums.sum() == 0


def test_padding_is_the_share_of_cells_that_hold_nothing():
    codes = torch.zeros(2, 3, 10)
    assert padding({"codes": codes, "lengths": torch.tensor([10, 4])}) == pytest.approx(0.3)
    assert padding({"codes": torch.zeros(1, 1, 4, 5), "lengths": torch.tensor([[2, 5]])}) == pytest.approx(0.5)


def test_what_does_not_fit_is_refused(tmp_path):
    layout = Parallel(SIZES)
    with pytest.raises(UserError, match="make them the same"):
        DecoderRecipe(decoder(layout), Parallel((7, 6)), 1)
    with pytest.raises(UserError, match="causal"):
        DecoderRecipe(decoder(layout, TransformerConfig(width=16, layers=1, heads=2, causal=False)), layout, 1)
    with pytest.raises(UserError, match="codebooks of .8, 5. codes"):
        fit(tmp_path, DecoderRecipe(decoder(layout), layout, 1), Repeats(sizes=(8, 5)))
    staged, given = CoarseFirst(SIZES, begin=True), batch()
    given = given | {"codes": given["codes"].clamp(min=0)}
    with pytest.raises(ValueError, match="CoarseFirst decodes steps together"):
        DecoderRecipe(decoder(staged), staged, 1).predict(decoder(staged), staged.pack(given["codes"]), given, None)
