"""Trained decoders make text, sound and pictures: what their laws say, the same again from the same seed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_generators import (
    bias_towards,
    masked_picture_decoder,
    masked_speech_decoder,
    most_probable,
    one_pass_decoder,
    picture_decoder,
    save_picture_codec,
    save_speech_codec,
    scales_decoder,
    speech_decoder,
    text_decoder,
)

import zoo
from zoo import checkpoint
from zoo.cli_generate import speed_of
from zoo.codecs.audio.io import read_audio
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_image
from zoo.container import TokenReader
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.layouts import Delay, Flat
from zoo.decoders.sampling import Exactness, Law, Noise
from zoo.decoders.sampling.proposers import NAMES, NGram
from zoo.generation_codes import given_steps, most_frames, steps_of
from zoo.generation_speech import Room, cut, pieces_of, timed
from zoo.generation_text import Printer, decoded
from zoo.vocabulary import Vocabulary

TEXT = "Good day."  # 9 bytes: 18 frames of anna, 27 of bert


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories of codecs, and decoders of their tokens."""
    folder = tmp_path_factory.mktemp("codecs")
    speech, pictures, scales = (folder / name for name in ("speech", "pictures", "scales"))
    sound, cells = save_speech_codec(speech), save_picture_codec(pictures)
    maps = save_picture_codec(scales, "var-vqvae", "plain")
    return SimpleNamespace(
        speech=speech, pictures=pictures, scales=scales, digest=sound, say=speech_decoder(sound),
        fill=masked_speech_decoder(sound), draw=picture_decoder(cells), paint=masked_picture_decoder(cells),
        grow=scales_decoder(maps), write=text_decoder(),
    )  # fmt: skip


def codes_of(found):
    return [tokens.codes[0] for tokens in found.tokens]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Text


def test_text_goes_on_from_its_prompt_for_as_many_steps_as_asked(made):
    found = zoo.generate(made.write, prompt="def f(", steps=20, seed=2)
    assert found.medium == "text" and found.text[0].startswith("def f(") and found.drawn == 20
    facts = found.facts()
    assert (facts["passes"], facts["steps_per_pass"], facts["accepted_length"]) == (20, 1, None)
    assert facts["exactness"] == "identical" and facts["tokens_per_second"] > 0


def test_text_stops_at_the_end_of_the_vocabulary():
    model = text_decoder()
    bias_towards(model, 256, 100.0)
    found = zoo.generate(model, prompt="done", steps=20)
    assert found.text == ("done",) and found.drawn == 1  # the end itself


def test_text_comes_piece_by_piece_as_it_is_in_the_end(made):
    parts = []
    found = zoo.generate(made.write, prompt="a", steps=40, seed=1, stream=parts.append)
    assert len(parts) > 10 and "".join(parts) == found.text[0]


def test_a_character_is_printed_when_all_its_bytes_are_there():
    parts, vocabulary = [], Vocabulary()
    show = Printer(vocabulary, parts.append)
    for byte in "aé€".encode()[:-1]:
        show(SimpleNamespace(tokens=torch.tensor([[[byte]]]), count=torch.tensor([1])))
    assert parts == ["a", "é"]
    assert decoded(vocabulary, [*"aé€".encode()[:-1]]) == "aé"
    assert decoded(vocabulary, [97, 256, 98]) == "a"


def test_a_decoder_that_has_a_begin_step_needs_no_prompt():
    assert zoo.generate(text_decoder(begin=True), steps=5).drawn == 5


def test_drafts_change_the_speed_and_not_the_text(made, tmp_path):
    plain = zoo.generate(made.write, prompt="abcabcab", steps=40, seed=3, temperature=0.3)
    checkpoint.save(text_decoder(), tmp_path / "draft")
    for proposer in ("ngram", NGram(longest=2), f"draft:{tmp_path / 'draft'}"):
        found = zoo.generate(
            made.write, prompt="abcabcab", steps=40, seed=3, temperature=0.3, proposer=proposer, window=4
        )
        assert found.text == plain.text and found.exactness == Exactness.IDENTICAL
    assert found.facts()["passes"] == 8 and found.facts()["accepted_length"] == 4  # the draft is the decoder itself


@pytest.mark.parametrize("proposer", sorted(NAMES))
def test_drafts_of_steps_that_hold_structure_change_nothing_either(made, proposer):
    for model, codec, asked in ((made.draw, made.pictures, {}), (made.say, made.speech, dict(text="Hi", seconds=0.2))):
        plain, drafted = (
            zoo.generate(model, codec=codec, seed=1, temperature=0.2, proposer=name, **asked)
            for name in (None, proposer)
        )
        assert same(codes_of(plain), codes_of(drafted))
        drafts = sum(int(result.trace.drafted.sum()) for result in drafted.results)
        assert drafts or model is made.say  # there, hardly ever do all codebooks of a step come again


def test_the_rule_of_drafts_is_chosen_by_name(made):
    found = zoo.generate(made.write, prompt="aaaa", steps=10, proposer="ngram", rule="rejection")
    assert found.exactness == Exactness.DISTRIBUTION


# Speech


def conditions(text, label=0, **more):
    return Conditions(torch.tensor([label]), text_ids([text]), **more)


def test_speech_follows_the_law_of_its_decoder_to_the_last_codebook(made):
    """At temperature 0 each code is the most probable one, those that come behind the end of the first codebook too."""
    model, layout = speech_decoder(made.digest), Delay((16,) * 3, begin=True, end=True)
    bias_towards(model, layout.end_id, 0.5)
    found = zoo.generate(model, text=TEXT, label="bert", temperature=0, codec=made.speech)
    (codes,) = codes_of(found)
    frames = codes.shape[1]
    assert 2 < frames < 60 and codes.min() >= 0  # it ended itself, and long before it had to
    assert most_probable(model, layout, codes, conditions(TEXT, 1)).all()
    assert found.media[0].shape == (1, 80 * frames) and found.rate == 8000 and found.drawn == 3 * frames
    # At the end one more step of the first codebook, and one for the last codebook of the last frame.
    assert found.facts()["passes"] == frames + 2 and found.facts()["cut"] == 0


def test_speech_that_comes_to_no_end_is_said_to_be_cut_unless_its_length_was_asked_for(made):
    model = speech_decoder(made.digest)
    bias_towards(model, Delay((16,) * 3, begin=True, end=True).end_id, -100)
    found = zoo.generate(model, text=TEXT, label="bert", codec=made.speech, count=2)
    assert found.facts()["cut"] == 2 and "2 pieces of text were cut off" in speed_of(found.facts())
    found = zoo.generate(model, text=TEXT, label="bert", codec=made.speech, seconds=0.2)
    assert found.facts()["cut"] == 0 and "cut" not in speed_of(found.facts())


@pytest.mark.parametrize("layout", [Flat((16,) * 3, begin=True, end=True), Delay((16,) * 3, begin=True)])
def test_other_layouts_are_drawn_by_their_own_steps(made, layout):
    model = speech_decoder(made.digest, context=128, layout=layout)
    (codes,) = codes_of(zoo.generate(model, text="Hi.", temperature=0, codec=made.speech, seconds=0.2))
    assert codes.shape == (3, 20) or layout.end
    tail = most_probable(model, layout, codes, conditions("Hi."))
    assert tail.all()


def test_speech_that_does_not_end_itself_is_as_long_as_asked(made):
    model = speech_decoder(made.digest)
    bias_towards(model, 16, -100.0)  # the end
    (codes,) = codes_of(zoo.generate(model, text=TEXT, seconds=0.21, codec=made.speech))
    assert codes.shape == (3, 21)
    (codes,) = codes_of(zoo.generate(model, text="Hi", codec=made.speech))
    assert codes.shape[1] == most_frames(model.tokens.layout, 64)  # 2 bytes, 2 frames each, twice, and a second
    (codes,) = codes_of(zoo.generate(model, text="Hi", steps=10, codec=made.speech))
    assert codes.shape == (3, 8)  # those frames of ten steps that are complete
    (codes,) = codes_of(zoo.generate(model, text=TEXT, steps=5, codec=made.speech))
    assert codes.shape == (3, 3)  # the text is not cut for it


def test_each_sample_is_the_same_however_many_there_are(made):
    for model, codec, most, asked in (
        (made.say, made.speech, 3, dict(text=TEXT)),
        (made.fill, made.speech, 3, dict(text=TEXT)),
        (made.draw, made.pictures, 3, dict(label="star")),
        (made.paint, made.pictures, 18, dict(label=1)),  # more than are drawn at once
        (made.grow, made.scales, 3, dict(label=1)),
    ):
        many, one = (codes_of(zoo.generate(model, count=n, seed=5, codec=codec, **asked)) for n in (most, 1))
        assert len({tuple(codes.flatten().tolist()) for codes in many}) == most
        assert same(one, many[:1]) and not same(one, codes_of(zoo.generate(model, seed=6, codec=codec, **asked)))


def test_masked_speech_takes_its_length_from_speaker_text_and_speed(made):
    def frames(**asked):
        (codes,) = codes_of(zoo.generate(made.fill, text=TEXT, codec=made.speech, **asked))
        return codes.shape[1]

    assert frames() == frames(label="anna") == 18 and frames(label="1") == 27
    assert frames(label="bert", speed=1.5) == 18 and frames(label="bert", seconds=0.4) == 40


def test_masked_speech_is_filled_level_by_level(made):
    found = zoo.generate(made.fill, text=TEXT, codec=made.speech)
    assert found.facts()["passes"] == 16 + 8 + 4
    assert zoo.generate(made.fill, text=TEXT, codec=made.speech, passes=[3, 2, 1]).facts()["passes"] == 6
    assert zoo.generate(made.fill, text=TEXT, codec=made.speech, passes=4).facts()["passes"] == 4 + 2 + 1
    together = masked_speech_decoder(made.digest, levels=False)
    assert zoo.generate(together, text=TEXT, codec=made.speech, passes=4).facts()["passes"] == 4


def test_a_timed_decoder_speaks_as_fast_as_it_expects_or_is_asked(made, monkeypatch):
    for model in (speech_decoder(made.digest, timed=True), masked_speech_decoder(made.digest, timed=True)):
        torch.nn.init.normal_(model.encoder.timing.last.weight, std=0.01)
        torch.nn.init.constant_(model.encoder.timing.last.bias, 0.7)  # two frames a byte, more or less
        told, init_state = [], type(model).init_state

        def note(self, rows, steps, cond=None, init_state=init_state, told=told):
            told.append(cond.durations)
            return init_state(self, rows, steps, cond)

        monkeypatch.setattr(type(model), "init_state", note)
        found = zoo.generate(model, text=TEXT, label="bert", codec=made.speech, count=2)
        expected = model.durations(Conditions(torch.tensor([1]), text_ids([TEXT])))
        torch.testing.assert_close(told[0], expected.expand(2, -1))
        if not model.info.causal:
            assert codes_of(found)[0].shape[1] == round(float(expected.sum()))
        zoo.generate(model, text=TEXT, label="bert", codec=made.speech, speed=1.5)
        torch.testing.assert_close(told[-1], expected / 1.5)
        zoo.generate(model, text=TEXT, codec=made.speech, seconds=0.36)
        assert float(told[-1].sum()) == pytest.approx(36)


def test_long_texts_are_said_in_pieces_with_a_pause_between_them(made):
    long = "One two three. Four five six, seven eight nine ten. Eleven."
    room = Room(rate=100, most=64, ends=False)
    pieces = pieces_of(long, room, 2.0, None)
    said = ["One two three.", "Four five six,", "seven eight nine ten.", "Eleven."]
    assert [piece.text for piece in pieces] == said
    found = zoo.generate(made.fill, text=long, codec=made.speech, count=2, seed=4)
    for codes in codes_of(found):
        assert codes.shape[1] == sum(2 * len(piece.text) for piece in pieces) + 3 * 15  # pauses of .15 s
    pause = zoo.load(made.speech).encode(torch.zeros(1, 1, 1200), 3).codes[0]
    first = codes_of(found)[0]
    assert torch.equal(first[:, 28:43], pause) and torch.equal(first[:, 71:86], pause)
    short = zoo.generate(made.fill, text="One two three.", codec=made.speech, seed=4)
    assert torch.equal(codes_of(short)[0], first[:, :28])


def test_a_decoder_that_says_nothing_is_silent_for_a_moment(made):
    model = speech_decoder(made.digest)
    bias_towards(model, 16, 100.0)
    found = zoo.generate(model, text=TEXT, codec=made.speech)
    assert found.drawn == 0 and found.media[0].shape == (1, 1200)


def test_pieces_are_as_few_as_the_bytes_allow_and_cut_where_one_breathes():
    assert cut("Ab. Cd. Ef.", 11) == ["Ab. Cd. Ef."] and cut("Ab. Cd. Ef.", 7) == ["Ab. Cd.", "Ef."]
    assert cut("Ab, cd. Ef.", 5) == ["Ab,", "cd.", "Ef."]
    with pytest.raises(UserError, match="'Abcdef.' has 7 bytes, this decoder says at most 6 in one go"):
        cut("Ab. Abcdef.", 6)


def test_a_text_is_drawn_out_as_far_as_its_longest_clause_goes():
    room, said = Room(10, 60, True), "Aaaa, bbbb. Cc."  # clauses of 5, 5 and 3 bytes, of 15 in all
    with pytest.raises(UserError, match="15 bytes in 19 s .*: ask for 18 s or less"):
        pieces_of(said, room, None, 19.0)
    assert [piece.text for piece in pieces_of(said, room, None, 18.0)] == ["Aaaa,", "bbbb.", "Cc."]


def test_the_seconds_asked_for_are_shared_among_pieces_by_their_bytes():
    pieces = pieces_of("Aaaa. Bbbb.", Room(10, 60, False), None, 11.0)
    assert [(piece.text, piece.frames) for piece in pieces] == [("Aaaa.", 50), ("Bbbb.", 50)]


@pytest.mark.parametrize("ends", [True, False])
def test_the_seconds_asked_for_hold_all_pieces_and_the_pauses_between_them(ends):
    """Of 50 frames, 2 x 8 are pauses, if a frame lasts 0.02 s."""
    text, room = "One two three. Four five six. Seven.", Room(50, 20, ends)
    pieces = pieces_of(text, room, None, 1.0)
    assert len(pieces) == 3 and sum(piece.frames for piece in pieces) <= 50 - 16
    durations = [torch.ones(len(piece.text)) for piece in pieces]
    told = timed(pieces, [2 * each for each in durations], room, 1.0)
    assert 30 < sum(piece.frames for piece in told) <= 50 - 16
    for piece in told:
        assert float(piece.durations.sum()) == pytest.approx(piece.frames)
    slow = timed(pieces, durations, room, None)
    assert sum(piece.frames for piece in slow) == (60 if ends else 14 + 14 + 6)  # 20 each, with spare for its end
    with pytest.raises(
        UserError, match="in 3 pieces, with pauses between them, which 0.3 s are too short for; .* 0.4 "
    ):
        timed(pieces, durations, room, 0.3)


def test_a_timed_decoder_that_finds_no_end_stops_at_the_seconds_asked_for(made):
    model = speech_decoder(made.digest, timed=True)
    bias_towards(model, 16, -100.0)  # the end
    for seconds in (0.05, 0.3):
        (codes,) = codes_of(zoo.generate(model, text="hi", seconds=seconds, codec=made.speech))
        assert codes.shape[1] == round(100 * seconds)


@pytest.mark.parametrize("asked", [dict(), dict(temperature=0.7, seed=3)])
def test_a_decoder_of_one_pass_says_what_it_finds_by_itself(made, asked):
    """Neither blanks nor places that say the same once more come out; each row is as long as it comes."""
    model, texts = one_pass_decoder(made.digest), ["Good day.", "Hi."]
    bias_towards(model, 16, 1.0)  # the blank, so that there are some
    law = Law(temperature=asked.get("temperature", 0.0))
    for text in texts:
        found = zoo.generate(model, text=text, codec=made.speech, count=2, **asked)
        noise = Noise(asked.get("seed", 0), rows=(0, 1))
        alone = model.generate(Conditions(text=text_ids([text] * 2)), law, noise)
        assert 0 < alone.lengths.max() < 4 * len(text)  # fewer than its places
        expected = [row[None, :length, 0] for row, length in zip(alone.codes, alone.lengths, strict=True)]
        assert same(codes_of(found), expected)
        assert found.facts()["passes"] == 1 and found.drawn == int(alone.lengths.sum())
    long = "One two three. Four five six."  # 4 places a byte, 64 in all
    found = zoo.generate(model, text=long, codec=made.speech, **asked)
    assert codes_of(found)[0].shape[1] == found.drawn + 15  # a pause between the sentences


def test_a_decoder_of_one_pass_may_say_nothing_and_refuses_what_it_cannot_heed(made):
    model = one_pass_decoder(made.digest)
    for asked, message in (
        (dict(seconds=1.0), "seconds means nothing for decoders of one pass, whose length comes with it"),
        (dict(speed=2.0), "speed means nothing for decoders of one pass"),
        (dict(passes=4), "passes means nothing for decoders of one pass"),
        (dict(guidance=2.0), "guidance means nothing for decoders of one pass"),
        (dict(proposer="self"), "proposer means nothing for decoders of one pass"),
        (dict(text=None), "makes sequences of text; give some of it"),
    ):
        with pytest.raises(UserError, match=message):
            zoo.generate(model, codec=made.speech, **({"text": "Hi."} | asked))
    bias_towards(model, 16, 1000.0)  # the blank
    found = zoo.generate(model, text="Hi.", codec=made.speech)
    assert found.drawn == 0 and found.facts()["steps_per_pass"] == 0


def test_a_text_that_leads_a_decoder_of_text_reaches_it():
    model = one_pass_decoder()
    model.tokens = replace(text_decoder().tokens, layout=model.tokens.layout)
    drawn = zoo.generate(model, text="Hi.").results[0]
    assert torch.equal(drawn.codes, model.generate(Conditions(text=text_ids(["Hi."]))).codes)


def test_text_of_another_vocabulary_than_bytes_is_refused(made):
    for model in (speech_decoder(made.digest, text=1000), one_pass_decoder(made.digest, text=1000)):
        with pytest.raises(UserError, match="text is of a vocabulary of 1000 that nobody gave; text comes as its 256"):
            zoo.generate(model, text="Hi.", codec=made.speech)


def test_speech_goes_on_with_a_recording_or_its_tokens(made, tmp_path):
    before = zoo.generate(made.fill, tmp_path / "a.ztok", text=TEXT, seconds=0.1, codec=made.speech)
    (known,) = codes_of(before)
    for model in (made.say, made.fill):
        found = zoo.generate(model, prompt=tmp_path / "a.ztok", text=TEXT, seconds=0.2, codec=made.speech, seed=3)
        (codes,) = codes_of(found)
        assert torch.equal(codes[:, :10], known) and codes.shape[1] > 10
        assert found.drawn == 3 * (codes.shape[1] - 10)
    assert codes.shape[1] == 30
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "a.wav", model=str(made.speech))
    codec = zoo.load(made.speech)
    heard = codec.encode(torch.from_numpy(read_audio(tmp_path / "a.wav")[0])[None], 3).codes[0]
    (codes,) = codes_of(
        zoo.generate(made.say, prompt=tmp_path / "a.wav", text=TEXT, seconds=0.2, codec=made.speech, seed=3)
    )
    assert torch.equal(codes[:, :10], heard)


def test_speech_sounds_like_a_recording_or_its_tokens(made, tmp_path):
    """The reference is as much of the beginning of the file as the decoder learned from, and says whose voice it is."""
    model, layout = speech_decoder(made.digest, reference=(16,) * 3), Delay((16,) * 3, begin=True, end=True)
    model.tokens = replace(model.tokens, reference=6)
    (known,) = codes_of(zoo.generate(made.fill, tmp_path / "a.ztok", text=TEXT, seconds=0.1, codec=made.speech))
    options = dict(text=TEXT, temperature=0, codec=made.speech)
    (codes,) = codes_of(zoo.generate(model, reference=tmp_path / "a.ztok", **options))
    told = Conditions(None, text_ids([TEXT]), known[:, :6].T[None])
    assert most_probable(model, layout, codes, told).all()
    assert not most_probable(model, layout, codes, replace(told, reference=known.T[None])).all()
    (named,) = codes_of(zoo.generate(model, reference=tmp_path / "a.ztok", label="bert", **options))
    assert most_probable(model, layout, named, replace(told, labels=torch.tensor([1]))).all()
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "a.wav", model=str(made.speech))
    (heard,) = codes_of(zoo.generate(model, tmp_path / "b.ztok", reference=tmp_path / "a.wav", **options))
    assert (tmp_path / "b.ztok").exists() and not same([heard], [codes])
    zoo.tokenize(tmp_path / "a.wav", tmp_path / "c.ztok", model=str(made.speech), codebooks=3)
    assert same([heard], codes_of(zoo.generate(model, reference=tmp_path / "c.ztok", **options)))


def test_a_reference_is_for_those_that_learned_from_one(made, tmp_path):
    with pytest.raises(
        UserError, match="does not learn from a reference; leave it out, or go on with it as the prompt"
    ):
        zoo.generate(made.say, reference=tmp_path / "a.wav", text=TEXT, codec=made.speech)
    model = speech_decoder(made.digest, reference=(16,) * 3)
    with pytest.raises(UserError, match=r"a\.wav: is no file; what this decoder takes as a reference is"):
        zoo.generate(model, reference=tmp_path / "a.wav", text=TEXT, codec=made.speech)


def test_a_prompt_fixes_its_codes_in_whatever_step_they_stand():
    layout, prompt = Delay((16,) * 3, begin=True, end=True), torch.arange(9).view(3, 3)
    steps = given_steps(layout, (5,), prompt)
    assert torch.equal(layout.unpack(steps[None], (5,))[0], torch.nn.functional.pad(prompt, (0, 2), value=-1))
    assert (steps >= 0).all(1).tolist()[:5] == [True] * 4 + [False]


def test_as_many_frames_fit_as_their_steps_allow():
    for layout in (Delay((16,) * 3, begin=True, end=True), Flat((16,) * 2), Delay((16,) * 2)):
        for steps in range(1, 20):
            most = most_frames(layout, steps)
            assert steps_of(layout, (most,)) <= steps < steps_of(layout, (most + 1,))


# Pictures


def test_pictures_follow_the_law_of_their_decoder(made):
    found = zoo.generate(made.draw, label="square", temperature=0, codec=made.pictures)
    (codes,) = codes_of(found)
    assert codes.shape == (2, 3, 4) and found.media[0].shape == (3, 12, 16)
    assert most_probable(made.draw, made.draw.tokens.layout, codes, Conditions(torch.tensor([1]))).all()
    assert found.facts()["passes"] == 24


def test_the_class_and_its_guidance_lead_to_other_pictures(made):
    for model, codec in ((made.draw, made.pictures), (made.paint, made.pictures), (made.grow, made.scales)):

        def codes(model=model, codec=codec, **asked):
            return codes_of(zoo.generate(model, codec=codec, seed=1, **asked))

        plain = codes(label="star")
        assert same(plain, codes(label="2")) and same(plain, codes(label=2, guidance=1.0))
        assert not same(plain, codes(label="circle")) and not same(plain, codes())
        assert not same(plain, codes(label="star", guidance=30.0))


def test_guidance_is_what_the_law_of_two_streams_gives(made):
    """Far along the way from no class to the class, the choice is that of the difference of both."""
    (codes,) = codes_of(zoo.generate(made.draw, label=1, temperature=0, guidance=1e4, codec=made.pictures))
    layout = made.draw.tokens.layout
    tokens = layout.pack(codes[None])[:, :-1]
    given, without = (
        made.draw(tokens, None, made.draw.init_state(1, 0, cond)).logits
        for cond in (Conditions(torch.tensor([1])), None)
    )
    free = layout.forced((3, 4))[1:] < 0
    best = (given * 1e4 + without * (1 - 1e4)).argmax(-1)[0][free]
    assert torch.equal(best, layout.pack(codes[None])[0, 1:][free])


def test_masked_pictures_may_be_of_another_size(made):
    found = zoo.generate(made.paint, size=(8, 18), codec=made.pictures, passes=5)
    assert codes_of(found)[0].shape == (2, 2, 5) and found.media[0].shape == (3, 8, 18)
    assert found.facts()["passes"] == 5


def test_pictures_come_scale_by_scale(made):
    found = zoo.generate(made.grow, label="circle", codec=made.scales)
    assert codes_of(found)[0].shape == (1, 39) and found.media[0].shape == (3, 20, 20)
    assert found.facts()["passes"] == 4


def test_a_picture_goes_on_below_the_rows_it_is_given(made, tmp_path):
    zoo.generate(made.draw, tmp_path / "top.ztok", label=0, size=(4, 16), codec=made.pictures)
    with TokenReader(tmp_path / "top.ztok") as reader:
        known = reader.tokens().codes[0]
    for model in (made.draw, made.paint):
        (codes,) = codes_of(zoo.generate(model, prompt=tmp_path / "top.ztok", codec=made.pictures))
        assert codes.shape == (2, 3, 4) and torch.equal(codes[:, :1], known)


# Files


def test_sound_and_its_tokens_are_written_and_are_the_same(made, tmp_path):
    for name in ("a.wav", "a.flac", "a.ztok"):
        found = zoo.generate(made.say, tmp_path / name, text=TEXT, codec=made.speech, seed=1)
        assert found.files == (tmp_path / name,)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.wav", model=str(made.speech))
    one, rate = read_audio(tmp_path / "a.wav")
    assert rate == 8000 and one.shape == (1, found.media[0].shape[1])
    for name in ("a.flac", "b.wav"):
        np.testing.assert_allclose(read_audio(tmp_path / name)[0], one, atol=2 / 32768)


def test_pictures_and_their_tokens_are_written_in_numbered_files(made, tmp_path):
    found = zoo.generate(made.draw, tmp_path / "a.png", count=10, codec=made.pictures)
    assert [file.name for file in found.files] == [f"a-{number:02}.png" for number in range(1, 11)]
    np.testing.assert_allclose(read_image(found.files[3]), found.media[3].numpy(), atol=1 / 255)
    zoo.generate(made.draw, tmp_path / "a.ztok", codec=made.pictures)
    zoo.reconstruct(tmp_path / "a.ztok", tmp_path / "b.png", model=str(made.pictures))
    assert np.abs(read_image(tmp_path / "b.png") - read_image(found.files[0])).max() <= 1 / 255


def test_text_is_written_with_its_prompt(made, tmp_path):
    found = zoo.generate(made.write, tmp_path / "a.py", prompt="x = ", steps=5)
    assert (tmp_path / "a.py").read_text() == found.text[0]


def test_progress_tells_the_share_of_the_samples(made):
    for model, codec in ((made.say, made.speech), (made.fill, made.speech)):
        seen = []
        zoo.generate(model, text=TEXT, codec=codec, count=2, progress=lambda *report: seen.append(report))  # noqa: B023
        done = [part for part, _ in seen]
        assert len(done) > 5 and done == sorted(done) and done[-1] == 2 and {total for _, total in seen} == {2}
