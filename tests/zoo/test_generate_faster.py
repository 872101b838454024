"""Heads draft for a decoder under the name of their folder, and decoders of recurrent depth keep steps in flight."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from command_line import one_line
from small_generators import answering, save_speech_codec, text_decoder

import zoo
from zoo import checkpoint
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.heads import HeadsConfig, MultiTokenHeads
from zoo.decoders.layouts import Parallel
from zoo.decoders.transformer import TransformerConfig
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

ASKED = dict(prompt="abab", steps=12, seed=3)


def heads_for(model, width=16):
    torch.manual_seed(0)
    heads = MultiTokenHeads(HeadsConfig((257,), width, model.info.specials, heads=3))
    if width == model.info.width:
        heads.start_from(model)
    heads.tokens = model.tokens
    return heads


def looped_decoder():
    """Of bytes; what loops hands on little of what it began with, so that it settles."""
    core = TransformerConfig(16, 3, heads=2, loops=12, prelude=1, coda=1, inject=True)
    layout = Parallel((257,))
    config = AutoregressiveConfig(layout.cards, core, context=64, specials=layout.specials, head_bias=True)
    model = answering(AutoregressiveDecoder(config), TokenFacts(layout, Vocabulary()))
    with torch.no_grad():
        model.transformer.inject.weight[:, :16] = 0.2 * torch.eye(16)
        for product in model.transformer.layers[1].ends():
            product.weight *= 0.1
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("write", "heads", "wide", "looped", "speech")}
    write = text_decoder()
    save_speech_codec(found["speech"])
    models = {"write": write, "heads": heads_for(write), "wide": heads_for(write, 32), "looped": looped_decoder()}
    for name, model in models.items():
        checkpoint.save(model, found[name])
    return SimpleNamespace(**found)


@pytest.mark.parametrize("settings", ["", ",2", ",width=1"])
def test_heads_draft_under_the_name_of_their_folder(made, settings):
    plain = zoo.generate(made.write, **ASKED)
    found = zoo.generate(made.write, proposer=f"heads:{made.heads}{settings}", **ASKED)
    assert found.text == plain.text and found.exactness == "identical"


def test_what_heads_are_is_told_and_what_they_are_not_is_refused(made, run, capsys):
    code, out, _ = run("info", made.heads, "--json")
    facts = json.loads(out)
    assert code == 0 and (facts["heads"], facts["width"], facts["text"]) == (3, 16, "257 tokens")
    begun = ("generate", made.write, "--prompt", "a", "--proposer")
    assert "holds heads, which draft for a decoder" in one_line(capsys, "generate", made.heads, "--prompt", "a")
    assert "is a decoder, which continues tokens" in one_line(capsys, *begun, f"heads:{made.write}")
    assert "is a codec" in one_line(capsys, *begun, f"heads:{made.speech}")
    assert "hidden states of width 32, a target of (257,) and 16" in one_line(capsys, *begun, f"heads:{made.wide}")
    assert "holds heads" in one_line(capsys, *begun, f"draft:{made.heads}")


def test_many_steps_in_flight_write_what_step_by_step_decoding_writes(made, run):
    plain = zoo.generate(made.looped, **ASKED)
    code, out, err = run(
        "generate", made.looped, "--prompt", "abab", "--steps", 12, "--seed", 3, "--wavefront", 8, "-o", "-", "--json"
    )  # fmt: skip
    facts = json.loads(out)
    assert (code, err) == (0, "") and facts["exactness"] == "approximate"
    assert facts["text"] == list(plain.text)
    assert facts["passes"] < 12 * 5  # of three layers each, in place of 14


def test_steps_in_flight_are_for_decoders_of_recurrent_depth_and_draw_alone(made, capsys):
    begun = ("generate", made.looped, "--prompt", "a", "--wavefront", 4)
    assert "proposer means nothing for steps in flight" in one_line(capsys, *begun, "--proposer", "ngram")
    assert "search means nothing" in one_line(capsys, *begun, "--search", "beam:2")
    wrong = ("generate", made.write, "--prompt", "a", "--wavefront", 4)
    assert "give an AutoregressiveDecoder with inject and prelude" in one_line(capsys, *wrong)
