"""An encoder-decoder draws pictures of what a text says, and drafts like any other causal decoder."""

from types import SimpleNamespace

import pytest
import torch
from small_generators import CELL_SIZES, PICTURE_FACTS, answering, core, save_picture_codec

import zoo
from zoo import checkpoint
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from zoo.decoders.layouts import Flat
from zoo.token_facts import TokenFacts

CAPTION = "a red star"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    layout = Flat(CELL_SIZES, begin=True)
    weights = save_picture_codec(folder / "pictures")
    model = EncoderDecoder(EncoderDecoderConfig(AutoregressiveConfig(layout.cards, core(), 64, layout.specials), 3))
    checkpoint.save(answering(model, TokenFacts(layout, weights=weights, **PICTURE_FACTS)), folder / "draw")
    return SimpleNamespace(draw=zoo.load(folder / "draw"), folder=folder, pictures=folder / "pictures")


def codes_of(made, text, **asked):
    found = zoo.generate(made.draw, text=text, codec=made.pictures, seed=2, **asked)
    return torch.cat([tokens.codes for tokens in found.tokens])


def test_other_texts_are_other_pictures_and_none_is_one_without_a_condition(made):
    red, blue, none = (codes_of(made, text) for text in (CAPTION, "a blue star", None))
    assert red.shape == (1, 2, 3, 4) and not torch.equal(red, blue) and not torch.equal(red, none)
    assert not torch.equal(codes_of(made, CAPTION, guidance=4.0), red)
    assert torch.equal(codes_of(made, CAPTION, count=3)[:1], red)


def test_a_caption_may_lie_in_a_file_and_white_space_around_it_says_nothing(made, run, tmp_path):
    (tmp_path / "caption.txt").write_text(f"  {CAPTION}\n")
    assert torch.equal(codes_of(made, tmp_path / "caption.txt"), codes_of(made, CAPTION))
    asked = ("--text", CAPTION, "--codec", made.pictures, "--size", "16x8", "-o", tmp_path / "star.png")
    code, out, err = run("generate", made.folder / "draw", *asked)
    assert (code, err) == (0, "") and "16 tokens" in out and (tmp_path / "star.png").exists()


def test_drafts_change_nothing(made):
    plain = codes_of(made, CAPTION, temperature=0.3)
    for proposer in ("jacobi", "early-exit:1", "ngram"):
        assert torch.equal(codes_of(made, CAPTION, temperature=0.3, proposer=proposer, window=3), plain)


def test_zoo_info_says_what_it_is(made, run):
    _, out, _ = run("info", made.folder / "draw")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["conditioning"] == "text" and facts["grid"] == "3, 4"
