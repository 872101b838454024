import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from zoo.recipes.codec import Optimization
from zoo.recipes.logging import RunLog


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("balance", [False, True])
def test_training_lowers_the_losses(small, tmp_path, precision, balance):
    recipe = small.recipe(300, losses={"adversarial": 0.0, "features": 0.0, "balance": balance},
                          optimization=Optimization(rate=1e-2, warmup=10))  # fmt: skip
    trainer(tmp_path, 300, precision=precision).fit(recipe, small.data(epoch=1200))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/noise"] < 0.7 * lines[0]["loss/noise"]
    assert lines[-1]["loss/mel"] < 0.7 * lines[0]["loss/mel"]
