"""Decoders that learned to restore codes are known by their facts, and drawn by their own loop."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from command_line import one_line
from small_generators import (
    VOICE_FACTS,
    answering,
    bias_towards,
    core,
    masked_picture_decoder,
    masked_speech_decoder,
    save_picture_codec,
    save_speech_codec,
)

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.conditioned import ConditionedMasked, ConditionedMaskedConfig
from zoo.decoders.conditioning import BYTES, ConditionConfig, Conditions, text_ids
from zoo.decoders.layouts import Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder
from zoo.decoders.sampling import Law, Noise
from zoo.decoders.unrolled_denoising import decode_unrolled
from zoo.generation_text import decoded
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

TEXT = "Good day."  # 9 bytes: 18 frames of anna


def restoring(decoder):
    decoder.tokens = replace(decoder.tokens, unrolled=True)
    return decoder


def ending_decoder(weights: str):
    """Of two codebooks that both may say that there is nothing."""
    layout = Parallel((16,) * 2, absent=True)
    config = MaskedConfig(layout.cards, core(causal=False, cross=16), 64, head_bias=True)
    conditions = ConditionConfig(16, text=BYTES, encoder=core(causal=False))
    model = ConditionedMasked(ConditionedMaskedConfig(conditions, config))
    return restoring(answering(model, TokenFacts(layout, weights=weights, **VOICE_FACTS)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    sound, cells = save_speech_codec(folder / "speech"), save_picture_codec(folder / "pictures")
    decoders = {
        "fill": masked_speech_decoder(sound), "say": restoring(masked_speech_decoder(sound)),
        "end": ending_decoder(sound), "paint": restoring(masked_picture_decoder(cells)),
    }  # fmt: skip
    for name, decoder in decoders.items():
        checkpoint.save(decoder, folder / name)
    loaded = {name: zoo.load(folder / name) for name in decoders}
    return SimpleNamespace(folder=folder, speech=folder / "speech", pictures=folder / "pictures", **loaded)


def test_the_same_weights_are_drawn_by_the_loop_that_their_facts_tell(made):
    """Filling in begins with masks alone; restoring begins with codes and never sees a mask."""
    assert made.say.tokens.unrolled and not made.fill.tokens.unrolled
    shown = {}
    for name in ("fill", "say"):
        decoder, seen = getattr(made, name), []
        hook = decoder.decoder.embedding.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        found = zoo.generate(decoder, text=TEXT, codec=made.speech, passes=3, temperature=0.5, seed=4)
        hook.remove()
        shown[name] = found.tokens[0].codes, [(tokens == 16).float().mean().item() for tokens in seen]
    assert shown["fill"][1][0] == 1 and len(shown["fill"][1]) == 3 + 1 + 1  # level by level
    assert shown["say"][1] == [0, 0, 0]
    cond = Conditions(torch.tensor([0]), text_ids([TEXT]))
    alone = decode_unrolled(made.say, (1, 18), 3, Law(0.5), Noise(4, rows=(0,)), cond=cond)
    assert torch.equal(shown["say"][0], alone.codes.mT) and not torch.equal(shown["say"][0], shown["fill"][0])


def test_each_sample_is_the_same_however_many_there_are_and_passes_are_counted(made):
    for model, codec, asked in (
        (made.say, made.speech, dict(text=TEXT, guidance=2.0)),
        (made.paint, made.pictures, dict(label="star", size=(8, 20))),
    ):
        found, alone = (zoo.generate(model, codec=codec, temperature=1, count=n, **asked) for n in (3, 1))
        assert torch.equal(found.tokens[0].codes, alone.tokens[0].codes)
        assert not torch.equal(found.tokens[1].codes, alone.tokens[0].codes)
        assert found.facts()["passes"] == 16 and found.facts()["exactness"] == "approximate"
    usual, coldest = (zoo.generate(made.say, text=TEXT, codec=made.speech, temperature=t) for t in (None, 0))
    assert torch.equal(usual.tokens[0].codes, coldest.tokens[0].codes)


def test_a_word_says_which_codes_a_pass_changes(made):
    def after(passes, chooser):
        return zoo.generate(made.paint, codec=made.pictures, passes=passes, chooser=chooser).tokens[0].codes

    for chooser in ("random:0.25", "uncertain:0.25"):
        one, two = (after(passes, chooser) for passes in (1, 2))
        assert 0 < (one != two).sum() <= 6  # of 24 codes
    assert not torch.equal(after(2, "random:0.25"), after(2, "uncertain:0.25"))
    assert torch.equal(after(2, None), after(2, "random:1"))


def test_a_row_ends_where_the_decoder_says_nothing_any_more(made):
    """Up to the last frame in which one of its codebooks says something; long texts are said in pieces, too."""
    found = zoo.generate(made.end, text="Hi", codec=made.speech, count=4, temperature=1.0, seed=1)
    lengths = {tokens.codes.shape[2] for tokens in found.tokens}
    assert all((tokens.codes[0, :, -1] >= 0).any() for tokens in found.tokens) and max(lengths) <= 64
    assert any((tokens.codes < 0).any() for tokens in found.tokens)  # before the end, too
    silent = zoo.load(made.folder / "end")
    for book in range(2):
        bias_towards(silent, 16 + book * 17, 100.0)  # the token that says that there is nothing
    assert zoo.generate(silent, text="Hi", codec=made.speech).media[0].shape == (1, 1200)


def test_text_goes_on_without_the_places_that_are_left_out():
    vocabulary = Vocabulary()
    layout = Parallel((vocabulary.card,), absent=True)
    model = MaskedDecoder(MaskedConfig(layout.cards, core(causal=False), 64, head_bias=True))
    model = restoring(answering(model, TokenFacts(layout, vocabulary)))
    bias_towards(model, 257, 5.0)
    found = zoo.generate(model, prompt="ab", steps=20, temperature=1.0, seed=1)
    (places,) = found.results[0].codes[:, 2:, 0]
    assert found.text == ("ab" + decoded(vocabulary, places[places != 257].tolist()),)
    assert 0 < found.drawn == (places != 257).sum() < places.numel() == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--proposer", "self"], "proposer means nothing for unrolled decoders"),
        (["--schedule", "cosine"], "schedule means nothing for unrolled decoders"),
        (["--passes", "4,2,1"], "restores all codebooks together; give one number"),
        (["--chooser", "margin:0.3"], "changes codes that are random or uncertain, not by margin; give one of these"),
        (["--chooser", "random:2"], "a pass cannot change a share of 2; give one above 0 and up to 1"),
        (["--chooser", "uncertain"], "give numbers, as in"),
        (["--zipar", "2"], "zipar means nothing for"),
    ],
)
def test_what_it_cannot_heed_is_said_in_one_line(made, settings, message, capsys, tmp_path):
    asked = ("generate", made.folder / "say", "--text", "Hi", "-o", tmp_path / "a.wav", "--codec", made.speech)
    assert message in one_line(capsys, *asked, *settings)


def test_a_decoder_that_decides_upon_its_end_takes_no_speed(made):
    with pytest.raises(UserError, match="speak as fast as they like"):
        zoo.generate(made.end, text=TEXT, codec=made.speech, speed=2.0)
