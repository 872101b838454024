"""The corpus builder: fixed splits, no clip twice, nothing that is not speech, and it continues where it stopped."""

import json

import numpy as np
import pytest
import soundfile

from zoo.codecs.errors import UserError
from zoo.recipes.data import debian_clips, debian_prompts, debian_voices, debian_words
from zoo.recipes.data.debian_clips import Clip, NotSpeech, to_int16, write_clip
from zoo.recipes.data.debian_packages import debian_folder
from zoo.recipes.data.debian_prompts import prompt_clips, split_of
from zoo.recipes.data.debian_synthetic import VOICES
from zoo.recipes.data.debian_words import word_clips
from zoo.recipes.data.synthetic_sentences import LANGUAGES, sentence

GOLDEN_SPLITS = {
    "activated": "valid",
    "conf-enteringno": "valid",
    "agent-alreadyon": "test-seen",
    "call-fwd-unconditional": "test-seen",
    "hello": "train",
    "digits/7": "train",
}
NOISE = (np.random.default_rng(0).standard_normal(8000) * 3000).astype(np.int16)


def test_the_split_of_a_prompt_never_changes():
    # Golden: published figures belong to exactly these splits.
    assert {name: split_of("en-allison", name, 2.0) for name in GOLDEN_SPLITS} == GOLDEN_SPLITS


def test_a_tenth_is_held_out_and_short_prompts_of_it_stay_out_of_the_metrics():
    for seconds, expected in ((2.0, {"train", "valid", "test-seen"}), (1.0, {"train", "held-out-short"})):
        splits = [split_of("fr-june", f"{k}", seconds) for k in range(4000)]
        assert set(splits) == expected
        assert splits.count("train") == pytest.approx(3600, abs=80)  # four standard deviations


def test_all_of_the_unseen_speaker_is_held_out():
    assert {split_of("it-carlo", f"{k}", seconds) for k in range(200) for seconds in (0.5, 3.0)} == {"test-unseen"}


def test_prompts_that_are_not_speech_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_prompts, "PROMPT_PACKAGES", {"en-allison": ("package", "/no/such/sounds")})
    sounds = tmp_path / "package" / "no/such/sounds"
    names = ("hello", "beep", "silence/1", "tt-monkeys", "tt-monkeysintro", "digits/7", "ascending-2tone")
    for name in names:
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        (sounds / f"{name}.g722").write_bytes(bytes(16_000))
    assert sorted(clip.name for clip in prompt_clips(tmp_path)) == ["digits/7", "hello", "tt-monkeysintro"]


def test_a_clip_is_written_once_and_exactly(tmp_path):
    clip = Clip("train", "speaker", "folder/name", lambda: NOISE)
    assert write_clip(tmp_path, clip) is None
    target = tmp_path / "train/speaker/folder/name.flac"
    samples, rate = soundfile.read(target, dtype="int16")
    assert rate == 16_000 and np.array_equal(samples, NOISE)

    def fail():
        raise AssertionError("read again")

    assert write_clip(tmp_path, Clip("train", "speaker", "folder/name", fail)) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [target]


@pytest.mark.parametrize(("samples", "reason"), [(NOISE[:100], "less than 0.15 s"), (NOISE // 1000, "silent")])
def test_a_clip_without_speech_is_refused_with_the_reason(tmp_path, samples, reason):
    assert reason in write_clip(tmp_path, Clip("train", "speaker", "name", lambda: samples))
    assert not list(tmp_path.rglob("*.flac"))


def test_samples_beyond_full_scale_are_clipped_not_wrapped():
    assert to_int16(np.array([1.5, -1.5, 0.5])).tolist() == [32767, -32768, 16384]


def test_recorded_words_are_taken_once_and_only_with_their_treble(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_words, "WORD_FOLDERS", {"game": ("package", "/no/such/words")})
    words = tmp_path / "package" / "no/such/words"
    (words / "en" / "alpha").mkdir(parents=True)
    (words / "sr").mkdir()
    time = np.arange(22_050) / 22_050
    dull = 0.3 * np.sin(2 * np.pi * 300 * time)
    bright = dull + 0.02 * np.sin(2 * np.pi * 6000 * time)
    soundfile.write(words / "en/alpha/a.wav", bright, 22_050)
    (words / "sr/a.wav").write_bytes((words / "en/alpha/a.wav").read_bytes())
    soundfile.write(words / "en/dull.wav", dull, 22_050)
    soundfile.write(words / "en/telephone.wav", bright[::3], 8000)
    soundfile.write(words / "en/clipped.wav", np.clip(20 * bright, -1, 1), 22_050)
    (words / "en/broken.ogg").write_bytes(b"OggS")
    clips = {clip.name: clip for clip in word_clips(tmp_path)}
    assert set(clips) == {"alpha/a", "dull", "telephone", "clipped", "broken"}
    assert clips["alpha/a"].speaker == "game-en"
    assert clips["alpha/a"].read().shape == (16_000,)
    reasons = {"dull": "above 5 kHz", "telephone": "8000 Hz", "clipped": "clipped", "broken": "unreadable"}
    for name, reason in reasons.items():
        with pytest.raises(NotSpeech, match=reason):
            clips[name].read()


def test_sentences_are_fixed_complete_and_varied():
    for language in LANGUAGES:
        texts = [sentence(language, f"{k}") for k in range(50)]
        assert texts == [sentence(language, f"{k}") for k in range(50)]
        assert len(set(texts)) > 45
        assert not any("{" in text or "}" in text for text in texts)


def test_every_sentence_can_be_written_in_the_encoding_of_its_voice():
    for voice in VOICES.values():
        for k in range(voice.sentences):
            text = sentence(voice.language, f"{voice.voice}/{k}")
            assert text.encode(voice.encoding).decode(voice.encoding) == text


def test_a_corpus_is_described_with_its_seconds_credits_and_refusals(tmp_path, monkeypatch):
    clips = [Clip("train", "fr-june", f"{k}", lambda: NOISE) for k in range(3)]
    clips += [Clip("valid", "fr-june", "3", lambda: NOISE), Clip("train", "fr-june", "short", lambda: NOISE[:9])]
    monkeypatch.setattr(debian_voices, "SOURCES", {"prompts": lambda cache: clips})
    monkeypatch.setattr(debian_clips.shutil, "which", lambda program: program)
    debian_voices.build(tmp_path, tmp_path / "cache", ["prompts"], processes=2)
    corpus = json.loads((tmp_path / "corpus.json").read_text())
    assert corpus["total"] == {"train": {"clips": 3, "seconds": 2}, "valid": {"clips": 1, "seconds": 0}}
    assert [entry["license"] for entry in corpus["credits"]] == ["CC-BY-SA-3.0"]
    assert list(corpus["refused"]["reasons"]) == ["fr-june/short"]


def test_a_package_that_cannot_be_had_is_an_error_with_the_apt_line(tmp_path):
    with pytest.raises(UserError, match="no-such-package"):
        debian_folder("no-such-package", "/no/such/folder", tmp_path)
