import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from zoo.recipes.codec import CodecOptimization
from zoo.recipes.logging import RunLog
from zoo.recipes.optimization import Optimization


def trainer(folder, steps, **settings):
    saver = ModelCheckpoint(folder, every_n_train_steps=10, save_top_k=0, save_last=True, enable_version_counter=False)
    settings = {"logger": False, "limit_val_batches": 0} | settings
    return Trainer(
        max_steps=steps, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saver, RunLog(folder, every=5)], num_sanity_val_steps=0, **settings,
    )  # fmt: skip


def test_a_step_is_one_generator_update_with_discriminators_in_play(small, tmp_path):
    recipe, run = small.recipe(), trainer(tmp_path, 20)
    run.fit(recipe, small.data())
    assert run.global_step == int(recipe.step) == 20
    assert int(recipe.codec.restarts) == 2 * 20  # two levels: the codec ran once a step
    states = [next(iter(o.state.values()))["step"] for o in run.optimizers]
    assert [int(state) for state in states] == [20, 20]


def test_a_resumed_run_equals_an_uninterrupted_one(small, tmp_path):
    whole, whole_run = small.recipe(), trainer(tmp_path / "whole", 40)
    whole_run.fit(whole, small.data())
    trainer(tmp_path / "parts", 20).fit(small.recipe(), small.data())
    torch.manual_seed(999)  # a new process would not find the old one's random state
    resumed, resumed_run = small.recipe(), trainer(tmp_path / "parts", 40)
    resumed_run.fit(resumed, small.data(), ckpt_path=tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert int(resumed.step) == resumed_run.global_step == 40
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    for mine, other in zip(resumed_run.optimizers, whole_run.optimizers, strict=True):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_the_mean_of_weights_is_validated_and_saved(small, tmp_path):
    recipe = small.recipe()
    run = trainer(tmp_path, 20, limit_val_batches=2, val_check_interval=10, check_val_every_n_epoch=None)
    run.fit(recipe, small.data())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    mean = recipe.average.module.encoder.weight
    assert torch.equal(saved["state_dict"]["average.module.encoder.weight"], mean)
    assert not torch.equal(mean, recipe.codec.encoder.weight)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    valid = [line for line in lines if "valid/mel/2 codebooks" in line]
    assert [line["step"] for line in valid] == [10, 20]
    assert valid[0]["valid/mel/unquantized"] > 0


@pytest.mark.parametrize(("precision", "balance"), [("32-true", False), ("bf16-mixed", True)])
def test_training_lowers_the_losses(small, tmp_path, precision, balance):
    recipe = small.recipe(150, losses={"adversarial": 0.0, "features": 0.0, "balance": balance},
                          optimization=CodecOptimization(rate=2e-2, warmup=10))  # fmt: skip
    trainer(tmp_path, 150, precision=precision).fit(recipe, small.data(epoch=600))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/noise"] < 0.7 * lines[0]["loss/noise"]
    assert lines[-1]["loss/mel"] < 0.7 * lines[0]["loss/mel"]


def test_quantizer_and_discriminators_come_in_at_their_steps_and_rows_draw_their_codebooks(small, tmp_path):
    recipe = small.recipe(8, quantize_after=3, discriminator_start=5, full_share=0.5)
    run = trainer(tmp_path, 8)
    run.fit(recipe, small.data())
    counts, quantized = zip(*recipe.codec.calls, strict=True)
    assert quantized == (False,) * 3 + (True,) * 5
    # Of 32 draws from 1..2 with half of the rows at full rate, three quarters are 2; under 2 % of seeds miss 16..30.
    drawn = torch.cat(counts)
    assert set(drawn.tolist()) == {1, 2} and 16 <= (drawn == 2).sum() <= 30
    assert int(next(iter(run.optimizers[1].state.values()))["step"]) == 3


def test_a_loss_without_weight_is_not_computed(small, tmp_path):
    off = dict.fromkeys(("wave", "noise", "adversarial", "features"), 0.0)
    recipe = small.recipe(5, losses=off)
    trainer(tmp_path, 5).fit(recipe, small.data())
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {name for name in line if name.startswith("loss/")} == {"loss/mel", "loss/gradient", "loss/commitment"}
    assert recipe.discriminators is None


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine_to_its_floor():
    factor = Optimization(warmup=10, floor=0.1).factor
    assert [factor(step, 110) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert factor(60, 110) == pytest.approx(0.55)  # half way between 1 and .1
    assert factor(110, 110) == factor(500, 110) == pytest.approx(0.1)
