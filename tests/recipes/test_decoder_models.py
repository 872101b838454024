"""Every kind of decoder that a recipe trains becomes a model that says the same as the weights in the checkpoint."""

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, fit

import zoo
from zoo.configs import from_json
from zoo.convert import convert
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import FrameDepth, NextScale, Parallel
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.masked import MaskedRecipe
from zoo.recipes.next_scale import NextScaleRecipe
from zoo.registry import architecture_class
from zoo.token_facts import TokenFacts

SCALES = ((1, 2), (2, 2), (2, 3))  # twelve cells, as many as `Repeats` has frames
CORE = {"width": 16, "layers": 1, "heads": 2}
BOTH_WAYS = CORE | {"causal": False}
KINDS = {
    "autoregressive": (DecoderRecipe, Parallel(SIZES), {"transformer": CORE}),
    "depth": (DecoderRecipe, FrameDepth(SIZES), {"transformer": CORE, "specials": 2, "depth": CORE}),
    "masked": (MaskedRecipe, Parallel(SIZES), {"transformer": BOTH_WAYS, "windows": [0, 3], "levels": True}),
    "next-scale": (
        NextScaleRecipe,
        NextScale(SIZES, scales=SCALES),
        {"transformer": BOTH_WAYS | {"rope": False}, "scales": SCALES},
    ),
}


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_decoder_is_loaded_as_it_was_trained(kind, conditioned, tmp_path):
    recipe_class, layout, config = KINDS[kind]
    config, name = config | {"cards": layout.cards}, kind
    if conditioned:
        name = "conditioned" if kind == "autoregressive" else f"conditioned-{kind}"
        config["transformer"] = config["transformer"] | {"cross": 8}
        config = {"conditions": {"width": 8, "classes": 3}, "decoder": config}
    made = architecture_class(name)
    recipe = recipe_class(made(from_json(made.config_class, config, kind)), layout, 2, optimization=QUICK, preview=None)
    fit(tmp_path, recipe, val_check_interval=2, limit_val_batches=1)
    recipe.trainer.save_checkpoint(tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "model")
    found, trained = zoo.load(tmp_path / "model"), recipe.average.module
    assert type(found) is made and found.config == trained.config
    assert found.tokens == TokenFacts(layout, masking=getattr(recipe, "masking", None))
    assert zoo.registry.architecture_of(found) == name

    given = Repeats().make(0)
    tokens = layout.pack(given["codes"])
    cond = Conditions(labels=given["label"]) if conditioned else None
    said, wanted = (model(tokens, state=model.init_state(4, 0, cond)) for model in (found, trained))
    torch.testing.assert_close(said, wanted, rtol=0, atol=0)
    if conditioned:
        without = found(tokens, state=found.init_state(4, 0)).logits
        assert not torch.equal(without, said.logits)
    if found.info.depth:
        assert torch.equal(found.depth(said.hidden, tokens), trained.depth(wanted.hidden, tokens))
