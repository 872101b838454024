"""Texts become sound and pictures: an encoder-decoder is trained by its name, converted, and drawn from."""

import json

import pytest
import soundfile
import torch
from PIL import Image

import zoo
from zoo import checkpoint
from zoo.cli import main
from zoo.convert import convert
from zoo.decoders.encoder_decoder import EncoderDecoder
from zoo.decoders.layouts import Flat, Parallel
from zoo.recipes.cli import train
from zoo.recipes.data.rendered_shapes import build
from zoo.token_facts import TokenFacts

LETTERS = dict(
    sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=1, codebook_size=8, lstm_layers=0, pad="constant"
)  # a codec of the eight codes that words are spelled in, 80 samples each
CONFIG = "--model.decoder.init_args.config"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("encoder-decoder.spelling-smoke", [f"--run.folder={tmp_path_factory.mktemp('runs')}/run"])


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    convert(run / "last.ckpt", folder / "model")
    checkpoint.save(zoo.create("seanet", **LETTERS), folder / "codec")
    return folder / "model"


def test_it_learns_and_becomes_a_model_of_its_own_kind(run, model, capsys):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = [line["valid/bits/code"] for line in lines if "valid/bits/code" in line]
    assert bits[-1] < bits[0] < 1  # of words that may end at any letter: about 2 bits a letter, 0.6 a code
    found = zoo.load(model)
    assert type(found) is EncoderDecoder and zoo.registry.architecture_of(found) == "encoder-decoder"
    assert found.tokens == TokenFacts(Parallel((8,), begin=True, end=True))
    assert len(found.encoder.encoder.layers) == 2 and found.config.encoder_layers == 2
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conditioning"] == ["text"]


def test_it_spells_what_it_is_told_as_sound_until_it_ends(model, tmp_path, capsys):
    """The letters a, b, c and d last for one to four codes: 0; 2 3; 4 5 5; 6 7 7 7."""
    for word, codes in (("a", [0]), ("d", [6, 7, 7, 7]), ("ca", [4, 5, 5, 0])):
        found = zoo.generate(model, text=word, temperature=0, codec=model.parent / "codec")
        assert found.tokens[0].codes[0, 0].tolist() == codes
    wav, codec = tmp_path / "b.wav", ["--codec", str(model.parent / "codec")]
    assert main(["generate", str(model), "--text", "b", "--temperature", "0", "-o", str(wav), *codec]) == 0
    assert soundfile.info(wav).frames == 2 * 80
    assert main(["generate", str(model), "--text", "b", "--class", "a", "-o", str(wav), *codec]) == 2
    assert "knows no classes" in capsys.readouterr().err


def test_a_model_made_by_its_name_is_saved_and_loaded_as_it_is(tmp_path):
    transformer = {"width": 16, "layers": 1, "heads": 2}
    made = zoo.create("encoder-decoder", decoder={"cards": [5], "transformer": transformer}, encoder_layers=2).eval()
    made.tokens = TokenFacts(Parallel((5,)))
    checkpoint.save(made, tmp_path)
    again = zoo.load(tmp_path)
    assert again.config == made.config
    torch.testing.assert_close(again.state_dict(), made.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_pictures_are_drawn_from_captions(tmp_path):
    """The recipe as it stands, on a few pictures, but for a network that is small and learns in a few large steps."""
    build(tmp_path / "shapes", {"train": 10, "valid": 1}, 0)
    for split in ("train", "valid"):
        source, target = tmp_path / "shapes" / split, str(tmp_path / split)
        texts = ["--codebooks", "4", "--texts", str(source / "texts.tsv")]
        assert main(["tokenize", str(source), "--out", target, *texts]) == 0
    options = [
        f"--run.folder={tmp_path}/run", f"--data.train_sets=[{tmp_path}/train]",
        f"--data.valid_sets=[{tmp_path}/valid]", f"{CONFIG}.encoder_layers=2",
        f"{CONFIG}.decoder.transformer={{width: 24, layers: 1, heads: 1, axes: 3}}", "--model.preview.batches=1",
        "--model.steps=6", "--model.optimization={rate: 0.05, warmup: 0, cooldown: 0, average: 0.0}",
        "--trainer.val_check_interval=6",
    ]  # fmt: skip
    convert(train("encoder-decoder.shapes", options) / "last.ckpt", tmp_path / "model")
    decoder, picture = zoo.load(tmp_path / "model"), tmp_path / "a.png"
    assert decoder.tokens.layout == Flat((1024,) * 4, begin=True) and decoder.tokens.grid == (6, 6)
    loud = dict(guidance=1000.0, seed=3)  # the little that it has learned of its texts
    ball, star = (zoo.generate(decoder, text=text, **loud).tokens[0].codes for text in ("a red ball", "a blue star"))
    assert ball.shape == (1, 4, 6, 6) and not torch.equal(ball, star)
    assert main(["generate", str(tmp_path / "model"), "--text", "a red ball", "-o", str(picture)]) == 0
    assert Image.open(picture).size == (96, 96)
