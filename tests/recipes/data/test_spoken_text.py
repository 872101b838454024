"""Speech with its text: what is read aloud is plain, nothing of the tests is trained on, and files and texts agree."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import soundfile

from zoo.codecs.errors import UserError
from zoo.pipeline_files import read_texts
from zoo.recipes.data import spoken_prompts, spoken_sources, spoken_text
from zoo.recipes.data.debian_clips import RATE, Clip
from zoo.recipes.data.spoken_prompts import read_transcripts, spoken_form
from zoo.recipes.data.spoken_sentences import (
    dealt,
    is_plain,
    name_of,
    normalised,
    of_common_words,
    prose_sentences,
    split_of_sentence,
    without_leaks,
    words,
)
from zoo.recipes.data.spoken_sources import cookies, made_up, wordnet_examples
from zoo.recipes.data.spoken_text import READERS, check_foreign, trimmed, utterances, write_texts

SENTENCES = [f"the {a} {b} saw the {c}." for a in ("old", "new", "red") for b in ("fox", "cat") for c in "abcdefgh"]
GOLDEN_SPLITS = {
    "two and one are here.": "train",
    "one and eleven are here.": "valid",
    "five and one are here.": "test",
}
TONE = (8000 * np.sin(np.arange(RATE) / 5)).astype(np.int16)


def test_prose_gives_its_sentences_and_not_its_code():
    page = """
Data Structures
===============

This chapter describes *some* things you've learned about
already; it adds a new :term:`thing <things>`.  Really?
It is "only" a short introduction.  It is about ``lists``.

   >>> fruits = ['orange', 'apple']

* The file stays open until the end of the program.
  Use HTTP where you can.  Version 3 is not the first one.
* Ask Mr. Smith about it.  (This is in brackets, too.)
"""
    assert list(prose_sentences(page)) == [
        "this chapter describes some things you've learned about already, it adds a new thing.",
        "it is only a short introduction.",
        "the file stays open until the end of the program.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The End ,\n at last !", "the end, at last!"),
        ("Wait... what?!", "wait. what?"),
        ("Well,. no", "well. no"),
    ],
)
def test_text_is_brought_to_one_form(text, expected):
    assert normalised(text) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "too short.",  # in characters
        "internationalisation notwithstanding, unfortunately.",  # in words
        "this one has no end to it",
        "the list has 3 of them in it.",
        "he said so to dr.",
        "two of them came. one went home.",
        "see the file name.py for more of this.",
        "the letter x stands for something.",
        "this is a 'quoted' word in a sentence.",
        "the hunter wants to kill the bear.",
        "it goes on " + "and on " * 12 + "again.",
    ],
)
def test_a_sentence_that_nobody_should_read_aloud_is_refused(sentence):
    assert not is_plain(sentence)


def test_a_plain_sentence_is_kept():
    assert is_plain("well, i don't know the up-to-date number, do you?")


def test_words_are_what_a_recogniser_writes():
    assert words("Don't stop - the up-to-date ones!") == ["don't", "stop", "the", "up", "to", "date", "ones"]


def test_sentences_of_rare_words_and_repeated_ones_are_left_out():
    sentences = ["the cat saw it.", "the cat saw it!", "it saw the cat", "it saw the zyzzyva."]
    assert set(of_common_words(sentences, 2)) == {"the cat saw it!", "it saw the cat"}


def test_the_split_of_a_sentence_depends_on_its_words_alone():
    # Golden: published figures belong to exactly these splits.
    assert {sentence: split_of_sentence(sentence) for sentence in GOLDEN_SPLITS} == GOLDEN_SPLITS
    assert split_of_sentence("Five and one: are here!") == "test"
    splits = [split_of_sentence(f"number {k:b} is it".replace("0", "zero ").replace("1", "one ")) for k in range(4000)]
    for held_out in ("valid", "test"):
        assert splits.count(held_out) == pytest.approx(100, abs=40)  # four standard deviations


def test_names_of_files_differ_where_words_do():
    assert len({name_of(sentence) for sentence in SENTENCES}) == len(SENTENCES)
    assert name_of("a b c d e.") == name_of("A b, c d e!")


def test_each_reader_gets_its_amount_and_no_sentence_of_another():
    shares = dealt(SENTENCES, {"anna": 300, "ben": 100})
    assert not set(shares["anna"]) & set(shares["ben"])
    longest = max(map(len, SENTENCES))
    for name, amount in (("anna", 300), ("ben", 100)):
        assert amount <= sum(map(len, shares[name])) < amount + longest
    assert dealt(reversed(SENTENCES), {"anna": 300, "ben": 100}) == shares
    assert sum(map(len, dealt(SENTENCES, {"anna": 1e9, "ben": 1e9}).values())) == len(SENTENCES)


def test_words_of_the_tests_are_neither_validated_nor_trained_on():
    texts = [
        ("test", "good bye."), ("valid", "good bye!"), ("train", "Good, bye"),
        ("valid", "hello."), ("train", "hello"), ("train", "thanks."),
    ]  # fmt: skip
    assert without_leaks(texts) == [0, 3, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Press 1, or 2 for *.", "press one, or two for star."),
        ("dash [-]", "dash"),
        ("After the tone. (simple tone sound plays)", "after the tone."),
        ("[ascending tones]", ""),
        ("<beep ascending>", ""),
        ("Extension 162", ""),
    ],
)
def test_a_transcript_says_what_is_spoken(text, expected):
    assert spoken_form(text) == expected


def test_transcripts_are_read_without_remarks_and_sounds(tmp_path):
    path = tmp_path / "sounds.txt.gz"
    path.write_bytes(gzip.compress(b"; Sounds: English\n\nhello: Hello.\nbeep: [tone]\ndigits/7: seven\n"))
    assert read_transcripts(path) == {"hello": "hello.", "digits/7": "seven"}


def test_prompts_keep_their_split_and_long_ones_are_left_out(tmp_path, monkeypatch):
    clips = [
        Clip(split, "en-allison", split, lambda: TONE) for split in ("train", "valid", "test-seen", "held-out-short")
    ]
    clips += [Clip("train", "en-allison", name, lambda: TONE) for name in ("long", "unknown")]
    said = "".join(f"{clip.name}: Hello.\n" for clip in clips[:4]) + f"long: {'very ' * 60}long.\n"
    (tmp_path / "core-sounds-en.txt.gz").write_bytes(gzip.compress(said.encode()))
    monkeypatch.setattr(spoken_prompts, "debian_folder", lambda package, folder, cache: tmp_path)
    monkeypatch.setattr(spoken_prompts, "speaker_clips", lambda speaker, cache: clips)
    found = spoken_prompts.spoken_prompts(tmp_path)
    assert [(clip.split, clip.speaker, text) for clip, text in found] == [
        ("train", "allison", "hello."), ("valid", "allison", "hello."), ("test", "allison", "hello."),
    ]  # fmt: skip


def test_examples_of_the_dictionary_are_found_behind_its_definitions(tmp_path):
    for part in ("adj", "adv", "noun"):
        (tmp_path / f"data.{part}").write_text("")
    (tmp_path / "data.verb").write_text(
        '00001 29 v 01 breathe 0 | draw air; "I can breathe better here"; "short"; "Did you look at the TV set?"\n'
        '00002 29 v 01 ask 0 | inquire about; "Did she ask about the price?"; "we asked them to wait"- A. Poet\n'
    )
    assert list(wordnet_examples(tmp_path)) == [
        "i can breathe better here.", "did she ask about the price?", "we asked them to wait.",
    ]  # fmt: skip


def test_cookies_are_read_without_their_authors_and_only_where_they_are_meant_for_all(tmp_path):
    (tmp_path / "wisdom").write_text(
        "A cloud does not know why it moves.\n\t\t-- A. Poet\n%\nBe like a cloud,\nif you can.\n"
    )
    (tmp_path / "zippy").write_text("This one is not for everybody here.\n")
    assert list(cookies(tmp_path)) == ["a cloud does not know why it moves.", "be like a cloud, if you can."]


def test_made_up_sentences_are_plain_and_mostly_different():
    found = list(made_up())
    assert all(map(is_plain, found))
    assert len(set(found)) > 0.6 * sum(spoken_sources.MADE_UP.values())


def test_trimming_leaves_sixty_milliseconds_of_silence():
    silence = np.zeros(RATE, np.int16)
    assert np.array_equal(trimmed(np.concatenate([silence, TONE, silence])),
                          np.concatenate([silence[:960], TONE, silence[:960]]))  # fmt: skip
    assert np.array_equal(trimmed(TONE), TONE)
    assert np.array_equal(trimmed(silence), silence)


def test_no_voice_trains_on_a_held_out_text_of_another():
    prompts = [
        (Clip("test", "allison", "it", lambda: TONE), SENTENCES[0]),
        (Clip("train", "allison", "b", lambda: TONE), "b"),
    ]
    spoken = utterances(SENTENCES, prompts, 1.0)
    texts = {split: {tuple(words(text)) for clip, text in spoken if clip.split == split} for split in ("train", "test")}
    assert tuple(words(SENTENCES[0])) in texts["test"] and ("b",) in texts["train"]
    assert not texts["train"] & texts["test"]


def test_a_small_corpus_lies_within_the_whole():
    whole, part = ({(clip.speaker, clip.name) for clip, _ in utterances(SENTENCES, [], share)} for share in (1.0, 0.5))
    assert part < whole and len(part) == len(whole) // 2


def test_a_corpus_has_a_text_for_each_clip_and_is_continued(tmp_path, monkeypatch):
    read = []

    def read_aloud(voice, text):
        read.append(text)
        return np.zeros(RATE, np.int16) if "fox" in text else np.concatenate([TONE, np.zeros(RATE, np.int16)])

    monkeypatch.setattr(spoken_text, "read_aloud", read_aloud)
    monkeypatch.setattr(spoken_text, "check_ffmpeg", lambda: None)
    monkeypatch.setattr(spoken_text, "check_installed", lambda voices, instead: None)
    monkeypatch.setattr(spoken_text, "gathered", lambda cache: SENTENCES)
    monkeypatch.setattr(spoken_text, "spoken_prompts", lambda cache: [])
    corpus = spoken_text.build(tmp_path, tmp_path, 1.0, 1)
    assert len(read) == len(SENTENCES)
    texts = read_texts(tmp_path / "train/texts.tsv")
    files = {path.relative_to(tmp_path / "train").as_posix() for path in (tmp_path / "train").rglob("*.flac")}
    assert set(texts) == files and set(texts.values()) <= set(SENTENCES)
    assert soundfile.info(tmp_path / "train" / next(iter(files))).duration == pytest.approx(1.06, abs=0.01)
    assert corpus == json.loads((tmp_path / "corpus.json").read_text())
    assert corpus["refused"]["count"] == sum("fox" in text for text in SENTENCES)
    assert [entry["speakers"] for entry in corpus["credits"]] == ["slt"]
    read.clear()
    spoken_text.build(tmp_path, tmp_path, 1.0, 1)
    assert all("fox" in text for text in read)


def test_clips_that_this_corpus_has_no_text_for_are_not_silently_kept(tmp_path):
    spoken = [(Clip("train", "slt", "digits/7", lambda: TONE), "seven")]
    (tmp_path / "train/slt/digits").mkdir(parents=True)
    (tmp_path / "train/slt/digits/7.flac").touch()
    check_foreign(tmp_path, spoken)
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid/8.flac").touch()
    with pytest.raises(UserError, match=r"1 clips of another corpus.* valid/8\.flac"):
        check_foreign(tmp_path, spoken)


def test_texts_are_those_of_files_that_exist(tmp_path):
    clips = [Clip("valid", "slt", name, lambda: TONE) for name in ("there", "missing")]
    (tmp_path / "valid/slt").mkdir(parents=True)
    (tmp_path / "valid/slt/there.flac").touch()
    write_texts(tmp_path, [(clip, "a text.") for clip in clips])
    assert read_texts(tmp_path / "valid/texts.tsv") == {"slt/there.flac": "a text."}


def test_what_the_user_can_mend_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spoken_text, "check_ffmpeg", lambda: None)
    voice = dataclasses.replace(READERS["slt"][0], program="no-such-program")
    monkeypatch.setattr(spoken_text, "READERS", {"slt": (voice, 1.0)})
    assert spoken_text.main(["--out", str(tmp_path)]) == 2
    assert "no-such-program is missing" in capsys.readouterr().err
    monkeypatch.setattr(spoken_text, "check_installed", lambda voices, instead: None)
    with pytest.raises(UserError, match="share of 2"):
        spoken_text.build(tmp_path, tmp_path, 2, 1)
