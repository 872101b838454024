"""Pictures become ever finer maps of codes, a decoder learns to draw these, and what it draws becomes pictures."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from small_image_codecs import pictures, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_decoder_recipe import QUICK, decoder, fit

import zoo
from zoo import checkpoint
from zoo.cli import main
from zoo.codecs.base import Tokens
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.conditioned import ConditionedNextScale, ConditionedNextScaleConfig
from zoo.decoders.conditioning import ConditionConfig, Conditions
from zoo.decoders.layouts import NextScale, Parallel
from zoo.decoders.next_scale import NextScaleConfig, decode_scales
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.cli import train
from zoo.recipes.data.token_sets import TokenSets
from zoo.recipes.next_scale import NextScaleRecipe

SCALES = ((1, 1), (2, 2), (3, 3), (5, 5))  # of the tiny codec
LAYOUT = NextScale((64,), scales=SCALES)


def next_scale(scales=SCALES) -> ConditionedNextScale:
    torch.manual_seed(0)
    core = TransformerConfig(width=16, layers=1, heads=2, causal=False, rope=False, adaptive=16)
    conditions = ConditionConfig(width=16, classes=2, pooled=("labels",))
    return ConditionedNextScale(ConditionedNextScaleConfig(conditions, NextScaleConfig((64,), scales, core, 8)))


def batch(rows=3, cells=39) -> dict:
    return {
        "codes": torch.randint(64, (rows, 1, cells), generator=torch.Generator().manual_seed(0)),
        "lengths": torch.full((rows,), cells),
        "label": torch.arange(rows) % 2,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny multi-scale codec, and a token set that it made of two classes of pictures."""
    folder = tmp_path_factory.mktemp("scales")
    checkpoint.save(tiny("var-vqvae", "plain"), folder / "codec")
    for label in range(2):
        (folder / "media" / f"class {label}").mkdir(parents=True)
        for number, picture in enumerate(pictures(12, 20, 20, seed=label)):
            pixels = (255 * picture.clamp(0, 1)).byte().permute(1, 2, 0).numpy()
            Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "media" / f"class {label}" / f"{number}.png")
    told = ["tokenize", str(folder / "media"), "--out", str(folder / "set"), "--model", str(folder / "codec")]
    assert main(told) == 0
    return folder


def test_pictures_are_tokenized_learned_drawn_and_shown(made, tmp_path):
    shape = {"width": 16, "layers": 1, "heads": 2, "adaptive": 16, "rope": False, "causal": False}
    config = {"cards": [64], "scales": SCALES, "transformer": shape, "channels": 8}
    options = {
        "run.folder": str(tmp_path), "run.log_every": 5, "model.steps": 40, "model.optimization": asdict(QUICK),
        "model.decoder.init_args.config.conditions": {"width": 16, "classes": 2, "pooled": ["labels"]},
        "model.decoder.init_args.config.decoder": config, "model.layout.init_args": {"sizes": [64], "scales": SCALES},
        "model.preview": {"batches": 1, "codec": str(made / "codec")},
        "data.init_args.train_sets": [str(made / "set")], "data.init_args.valid_percent": 20.0,
        "data.init_args.batch_cells": 39 * 6, "trainer.accelerator": "cpu", "trainer.devices": 1,
        "trainer.precision": "32-true", "trainer.val_check_interval": 40,
    }  # fmt: skip
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    train("next-scale.pictures", [f"--{name}={value}" for name, value in told.items()])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/cross_entropy"] for line in lines if "loss/cross_entropy" in line]
    assert losses[-1] < 0.85 * losses[0]  # 18 pictures by heart
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["images"]) == {"clip 0/target", "clip 0/sample"}
    shown = events.Images("clip 0/sample")[0]
    assert (shown.height, shown.width) == (20, 20)

    convert(tmp_path / "last.ckpt", tmp_path / "model")
    found = zoo.load(tmp_path / "model")
    assert found.tokens.layout == LAYOUT and found.tokens.labels == ("class 0", "class 1")
    drawn = decode_scales(found, 2, cond=Conditions(labels=torch.tensor([0, 1]))).codes
    pictures = zoo.load(made / "codec").decode(Tokens(drawn.transpose(1, 2), torch.full((2, 2), 20)))
    assert pictures.shape == (2, 3, 20, 20)


def test_the_loss_is_the_surprise_at_each_code_given_coarser_maps():
    recipe, given = NextScaleRecipe(next_scale(), LAYOUT, 1), batch()
    conditions = recipe.conditions(given)
    found = recipe.objective(given, conditions, 0)
    assert found.tokens == 3 * 39
    tokens, total = given["codes"].transpose(1, 2), 0.0
    state = recipe.decoder.init_state(3, 0, conditions)
    for first, end in ((0, 1), (1, 5), (5, 14), (14, 39)):
        law = recipe.decoder(tokens[:, :end], state=state).logits[:, first:].log_softmax(-1)
        total -= law.gather(-1, tokens[:, first:end, :, None]).sum()
    torch.testing.assert_close(found.loss, total / found.tokens)


def test_a_resumed_run_equals_an_uninterrupted_one(made, tmp_path):
    def run(folder, steps=12, resume=False):
        recipe = NextScaleRecipe(next_scale(), LAYOUT, 12, optimization=QUICK, preview=None)
        data = TokenSets([str(made / "set")], valid_percent=20.0, batch_cells=39 * 6, epoch_batches=4)
        fit(tmp_path / folder, recipe, data, steps=steps, resume=resume)
        return recipe.state_dict()

    whole = run("whole")
    run("parts", steps=10)
    torch.testing.assert_close(run("parts", resume=True), whole, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    causal = Parallel((64,))
    with pytest.raises(UserError, match="trains a NextScaleDecoder, got AutoregressiveDecoder"):
        NextScaleRecipe(decoder(causal), LAYOUT, 1)
    others = NextScale((64,), scales=SCALES[:3]), NextScale((64,), scales=SCALES, begin=True)
    for layout in (*others, NextScale((65,), scales=SCALES), Parallel((64,))):
        with pytest.raises(UserError, match="of just these"):
            NextScaleRecipe(next_scale(), layout, 1)
    recipe = NextScaleRecipe(next_scale(), LAYOUT, 1)
    with pytest.raises(UserError, match="pictures of one tile"):
        recipe.objective(batch(cells=78), None, 0)
