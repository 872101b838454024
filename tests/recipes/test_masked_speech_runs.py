"""Recipes of masked speech train decoders that speak as they learned: in spans, of what is near, after a voice."""

import math

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.convert import convert
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.sampling import decode_masked
from zoo.decoders.sampling.choosers import Spans
from zoo.generation_request import sampling_for
from zoo.pipeline_folder import tokenize_folder
from zoo.recipes.cli import train
from zoo.token_sets import TokenSet

CODEC, RATE, BOOKS = "spectral.speech-16khz", 16000, 4
TEXT, LAYERS, WINDOW = "Good day.", 2, 5


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Folders of recordings, a second of noise each by three voices, and of their tokens, with times of all bytes."""
    folder = tmp_path_factory.mktemp("speech")
    for number, name in enumerate(f"{voice}/{k}" for voice in ("awb", "rms", "slt") for k in range(2)):
        path = folder / "media" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, RATE), RATE)
        path.with_suffix(".txt").write_text(TEXT)
    tokenize_folder(folder / "media", folder / "tokens", zoo.load(CODEC), codebooks=BOOKS)
    tokens = TokenSet(folder / "tokens")
    frames = tokens.codes().shapes[:, 0]
    tokens.write_durations([np.diff(np.linspace(0, count, len(TEXT) + 1).astype(int)) for count in frames])
    return folder


@pytest.fixture(scope="module")
def trained(speech, tmp_path_factory):
    """Trains a recipe for two steps, as it says but for the number of layers and items, and gives what comes of it."""

    def trained(recipe):
        folder, tokens = tmp_path_factory.mktemp(recipe), f"['{speech}/tokens']"
        options = {
            "run.folder": folder / "run", "data.train_sets": tokens, "data.valid_sets": tokens, "data.batch_cells": 150,
            "data.valid_items": 2, "model.steps": 2, "model.preview": "null", "trainer.val_check_interval": 2,
            "model.decoder.init_args.config.decoder.transformer.layers": LAYERS,
        }  # fmt: skip
        train(recipe, [f"--{name}={value}" for name, value in options.items()])
        convert(folder / "run" / "last.ckpt", folder / "model")
        return zoo.load(folder / "model")

    return trained


@pytest.fixture(scope="module")
def spans(trained):
    return trained("conditioned-masked.speech-16khz-spans")


@pytest.fixture(scope="module")
def reference(trained):
    return trained("conditioned-masked.speech-16khz-reference")


def test_what_learned_by_spans_and_levels_is_filled_in_so(spans, tmp_path):
    facts = spans.tokens
    assert facts.masking.by_level and facts.masking.span == 3 and facts.codec == CODEC
    found = zoo.generate(spans, tmp_path / "said.wav", text=TEXT, label="slt", seconds=0.5, seed=1)
    assert found.facts()["passes"] == 16 + 8 + 4 + 2 and (found.tokens[0].codes >= 0).all()
    assert soundfile.info(tmp_path / "said.wav").frames == RATE // 2
    chooser = sampling_for(spans, "audio").chooser(None)
    assert isinstance(chooser, Spans) and chooser.length == 3


def test_finer_codes_are_drawn_from_what_is_near_and_the_first_ones_from_all(spans):
    """A layer passes on what lies a window away, so that a codebook filled in one pass sees `LAYERS` windows far."""
    frames, reach = 40, LAYERS * WINDOW
    cond = Conditions(labels=torch.tensor([2]), text=text_ids([TEXT]))
    given = torch.full((1, frames, BOOKS), -1)
    given[..., 0] = torch.arange(frames)
    changed = given.clone()
    changed[0, -1, 0] = 1000
    results = [decode_masked(spans, prompt, (1, 1, 1, 1), cond=cond) for prompt in (given, changed)]
    for book in range(1, BOOKS):  # each sees what the change has made of the one before
        out = frames - 1 - book * reach
        moved = (results[0].logp != results[1].logp)[0, :, book]
        assert not moved[:out].any() and moved[out:].any()
        assert torch.equal(*(result.codes[0, :out, book] for result in results))
    some = given.clone()
    some[0, 0, 0] = -1
    first = [decode_masked(spans, prompt, 1, cond=cond) for prompt in (some, some.where(given != frames - 1, 1000))]
    assert first[0].logp[0, 0, 0] != first[1].logp[0, 0, 0]


def test_what_learned_from_speech_of_a_voice_speaks_after_it_and_goes_on_with_it(reference, speech, tmp_path):
    facts = reference.tokens
    assert facts.masking.by_level and facts.masking.prompt and facts.reference == 150
    said = {}
    for voice in ("awb", "slt"):
        recording = speech / "media" / voice / "0.wav"
        found = zoo.generate(reference, tmp_path / "said.wav", text=TEXT, reference=recording, seconds=0.5, passes=4)
        assert found.facts()["passes"] == 4 + 2 + 1 + 1
        said[voice] = found.tokens[0].codes
    assert not torch.equal(*said.values()) and all((codes >= 0).all() for codes in said.values())
    assert soundfile.info(tmp_path / "said.wav").frames == RATE // 2

    begin = zoo.load(CODEC).encode(torch.from_numpy(soundfile.read(recording, dtype="float32")[0])[None, None], BOOKS)
    went_on = zoo.generate(reference, prompt=recording, reference=recording, seconds=0.2, passes=4).tokens[0].codes
    frames = begin.codes.shape[2]
    assert torch.equal(went_on[..., :frames], begin.codes)
    assert went_on.shape[2] == frames + math.ceil(0.2 * 50) and (went_on >= 0).all()
