"""A masked diffusion model of text is trained by its name, on one process or several, and shown as it fills in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from zoo.convert import convert
from zoo.decoders.sampling import decode_masked
from zoo.recipes.cli import train

SMOKE = "masked.text-smoke"
GATHERED = "--trainer.accumulate_grad_batches=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(SMOKE, [f"--run.folder={folder}", GATHERED, "--trainer.val_check_interval=20"])


def weights(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if value.is_floating_point()}


def test_a_run_learns_and_tells_the_bound(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/cross_entropy"] for line in lines if "loss/cross_entropy" in line]
    assert losses[-1] < 0.8 * losses[0]
    bounds = [line["valid/bits/byte"] for line in lines if "valid/bits/byte" in line]
    assert bounds[-1] < bounds[0] < 8  # bits of a byte without a model


def test_text_is_shown_as_it_is_filled_in(run):
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    target, sample = (
        events.Tensors(f"clip 0/{kind}/text_summary")[0].tensor_proto.string_val[0].decode()
        for kind in ("target", "sample")
    )
    assert target.partition("⏵")[0] == sample.partition("⏵")[0] and target != sample


def test_a_run_becomes_a_model_that_fills_in(run, tmp_path):
    convert(run / "last.ckpt", tmp_path / "model")
    model = zoo.load(tmp_path / "model")
    prompt = torch.full((1, 40, 1), -1)
    known = torch.tensor(model.tokens.vocabulary.encode("import"))
    prompt[0, 10 : 10 + len(known), 0] = known
    filled = decode_masked(model, prompt, 5, schedule="linear").codes[0, :, 0]
    assert (filled >= 0).all() and torch.equal(filled[10 : 10 + len(known)], known)


@pytest.mark.slow
def test_two_processes_equal_one_that_gathers_the_gradients_of_both(run, tmp_path):
    """Batch after batch they get the same codes, and the same ones are hidden."""
    options = [f"--run.folder={tmp_path}/run", "--trainer.devices=2", "--trainer.strategy=ddp"]
    ran = subprocess.run(
        [Path(sys.executable).parent / "zoo", "train", SMOKE, *options],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    torch.testing.assert_close(weights(tmp_path / "run"), weights(run), rtol=1e-3, atol=1e-5)
