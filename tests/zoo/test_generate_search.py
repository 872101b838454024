"""`--search` looks for text, pictures and sound among candidates, and says what it cannot look for."""

from __future__ import annotations

import pytest
import torch
from command_line import one_line
from small_generators import (
    bias_towards,
    masked_picture_decoder,
    picture_decoder,
    save_picture_codec,
    save_speech_codec,
    speech_decoder,
    text_decoder,
)

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.sampling import Law, Noise, search
from zoo.decoders.sampling.contrastive_search import contrastive_search
from zoo.generation_text import decoded


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "write"
    checkpoint.save(text_decoder(), folder)
    return folder


def test_beams_find_more_probable_text_than_one_step_after_the_other(writer):
    model = zoo.load(writer)
    found = zoo.generate(model, prompt="def f(", steps=10, search="beam:6")
    prompt = torch.tensor(list(b"def f("))[None, :, None]
    best, plain = found.results[0], search.beam_search(model, prompt, 10, 1, patience=1, stop=256)
    assert float(best.logp.sum()) > float(plain.logp.sum())
    assert torch.equal(best.codes, search.beam_search(model, prompt, 10, 6, stop=256).codes)
    assert best.scores[0, 0] == best.scores.max() and len(best.candidates.each(0)) == 6
    facts = found.facts()
    assert (facts["tokens"], facts["passes"], facts["exactness"]) == (10, 10, "approximate")


def test_what_draws_depends_on_the_seed_and_not_on_what_is_drawn_beside_it(writer):
    options = dict(prompt="ab", steps=8)
    for name in ("best-of:3", "mbr:5"):
        both = zoo.generate(writer, count=2, search=name, seed=3, **options)
        assert both.text[0] == zoo.generate(writer, search=name, seed=3, **options).text[0]
        assert both.text[0] != both.text[1]
    assert zoo.generate(writer, search="best-of:1", **options).text == zoo.generate(writer, **options).text


def test_of_arithmetic_samples_the_most_probable_is_taken(writer):
    options = dict(prompt="ab", steps=6, search="arithmetic:8", temperature=0.8, seed=2)
    made = zoo.generate(writer, **options)
    assert made.text == zoo.generate(writer, **options).text != zoo.generate(writer, **options | {"seed": 3}).text
    found = made.results[0]
    law, prompt = Law(temperature=0.8), torch.tensor(list(b"ab"))[None, :, None]
    spread = search.arithmetic_samples(zoo.load(writer), prompt, 6, 8, law, Noise(2, rows=(0,)), stop=256)
    assert torch.equal(found.candidates.codes.sort(1)[0], spread.codes.sort(1)[0])
    assert found.scores[0].tolist() == sorted(found.scores[0].tolist(), reverse=True)
    assert found.scores[0, 0] == max(float(logp.double().mean()) for _, logp in spread.each(0))


def test_phrases_stand_in_the_text(run, writer):
    code, out, err = run(
        "generate", writer, "--prompt", "ab", "--steps", 12, "--phrase", "xyz", "--phrase", "q!", "--search", "beam:3"
    )  # fmt: skip
    assert code == 0 and out.startswith("ab") and "xyz" in out and "q!" in out and err.endswith("; approximate\n")
    assert "xyz" in zoo.generate(writer, prompt="ab", steps=4, phrases=["xyz"]).text[0]


def test_settings_of_a_search_stand_behind_its_number(run, writer):
    words = ("beam:4,length_penalty=0,patience=.5", "diverse:4,groups=2,diversity=3", "contrastive:4,penalty=0.9")
    prompt = torch.tensor(list(b"ab"))[None, :, None]
    model, beams = zoo.load(writer), dict(width=4, length_penalty=0.0, patience=0.5)
    apart = search.diverse_beam_search(model, prompt, 8, 4, 2, 3.0, stop=256)
    expected = search.beam_search(model, prompt, 8, **beams, stop=256), apart
    for word, found in zip(words, (*expected, contrastive_search(model, prompt, 8, 4, 0.9, stop=256)), strict=True):
        code, out, _ = run("generate", writer, "--prompt", "ab", "--steps", 8, "--search", word)
        assert (code, out) == (0, "ab" + decoded(model.tokens.vocabulary, found.codes[0, :, 0].tolist()) + "\n"), word


def test_superposed_drafts_lean_towards_the_n_grams_of_a_file(run, writer, tmp_path):
    file = tmp_path / "like.txt"
    file.write_text("xyzxyzxyz")
    model, prompt = zoo.load(writer), torch.tensor(list(b"ab"))[None, :, None]
    ngrams, texts = search.NGrams([b"xyzxyzxyz"], model.info.vocabulary), []
    for trust in (0.0, 0.4, 1.0):
        found = search.superposed_decoding(model, prompt, 8, 3, ngrams, Law(temperature=0.5), trust=trust, stop=256)
        word = f"superposed:3,ngrams={file},trust={trust}"
        code, out, _ = run("generate", writer, "--prompt", "ab", "--steps", 8, "--temperature", 0.5, "--search", word)
        texts.append("ab" + decoded(model.tokens.vocabulary, found.codes[0, : found.lengths[0], 0].tolist()))
        assert (code, out) == (0, texts[-1] + "\n")
    assert texts[2] == "abxyzxyzxy" != texts[0] == zoo.generate(
        model, prompt="ab", steps=8, temperature=0.5, search="superposed:3"
    ).text[0]  # fmt: skip


@pytest.mark.parametrize("name", [*(f"{name}:3" for name in search.NAMES if name != "superposed"), "superposed:2"])
def test_every_search_ends_with_the_text(name):
    model = text_decoder()
    bias_towards(model, 256, 100.0)
    assert zoo.generate(model, prompt="done", steps=20, search=name).text == ("done",)


@pytest.mark.parametrize("name", ["beam:3", "mbr:3"])
def test_pictures_and_speech_are_searched_as_well(name, tmp_path):
    sound, cells = save_speech_codec(tmp_path / "speech"), save_picture_codec(tmp_path / "pictures")
    picture = zoo.generate(picture_decoder(cells), label="star", guidance=2.0, search=name, codec=tmp_path / "pictures")
    assert picture.media[0].shape == (3, 12, 16) and (picture.tokens[0].codes >= 0).all()
    speech = zoo.generate(
        speech_decoder(sound), text="Good day.", label="anna", search=name, codec=tmp_path / "speech"
    )  # fmt: skip
    assert speech.media[0].isfinite().all() and str(speech.exactness) == "approximate"


REFUSED = {
    "unknown": (["--search", "bem:8"], "there is no search 'bem'; did you mean 'beam'?"),
    "a near setting": (["--search", "beam:8,patence=2"], "has no setting 'patence'; did you mean 'patience'?"),
    "another's setting": (["--search", "mbr:8,patience=2"], "the search mbr has no setting 'patience'; there is count"),
    "out of range": (["--search", "contrastive:3,penalty=2"], "3 candidates and a penalty of 2.0; expected at least 1"),
    "unlike any": (
        ["--search", "x"],
        "there is no search 'x'; there is arithmetic, beam, best-of, contrastive, diverse, mb",
    ),
    "no number": (["--search", "beam"], "give a number, as in beam:8"),
    "no candidates": (["--search", "mbr:0"], "give a number, as in mbr:8"),
    "no n-grams": (["--search", "superposed:3,trust=.5"], "no n-grams to trust in; name a file of text, as in superp"),
    "no such n-grams": (["--search", "superposed:3,ngrams=none.txt"], "none.txt: is no file; n-grams are counted in"),
    "nameless n-grams": (["--search", "superposed:3,ngrams="], "there are no n-grams to trust in; name a file of text"),
    "n-grams of nothing": (["--search", "superposed:3,ngrams={empty}"], "is empty; n-grams are counted in text like"),
    "trust out of range": (["--search", "superposed:3,ngrams={file},trust=2"], "a trust of 2.0 and 3 drafts; expected"),
    "drafts": (["--search", "beam:2", "--proposer", "ngram"], "proposer means nothing for a search"),
    "phrases of samples": (["--search", "mbr:2", "--phrase", "a"], "phrases are for beam search"),
    "no room for phrases": (["--steps", "3", "--phrase", "long"], "and there is room for 3 steps"),
    "an empty phrase": (["--phrase", ""], "the phrase [] is empty"),
    "twice the same": (["--search", "beam:2", "--count", "2"], "finds the same each time"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_searched_is_one_line(what, writer, capsys, tmp_path):
    arguments, message = REFUSED[what]
    (tmp_path / "empty.txt").touch()
    arguments = [argument.format(file=__file__, empty=tmp_path / "empty.txt") for argument in arguments]
    assert message in one_line(capsys, "generate", writer, "--prompt", "ab", *arguments)


def test_what_does_not_go_step_by_step_or_does_not_write_or_streams_is_refused(writer, tmp_path):
    codec = tmp_path / "pictures"
    cells = save_picture_codec(codec)
    with pytest.raises(UserError, match="leave the stream out"):
        zoo.generate(writer, prompt="a", search="beam:2", stream=print)
    with pytest.raises(UserError, match="phrases are for decoders of text"):
        zoo.generate(picture_decoder(cells), label="star", phrases=["a"], codec=codec)
    with pytest.raises(UserError, match="search means nothing for decoders that do not go step by step"):
        zoo.generate(masked_picture_decoder(cells), label="star", search="beam:2", codec=codec)
