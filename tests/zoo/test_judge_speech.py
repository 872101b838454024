"""What is said of decoders that speak: errors in words, whose voice it is, and how long it took."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from zoo import judge_speech, judges
from zoo.codecs.errors import UserError
from zoo.demo_audio import RECORDING
from zoo.judge_speech import Spoken, judge, main, sentences, whose

VOICES = {"anna": np.array([1.0, 0.0]), "bert": np.array([0.6, 0.8])}


@pytest.fixture
def folder(tmp_path):
    """Six recordings of two voices; the level of each tells whose it is."""
    lines = []
    for number in range(6):
        voice = ("anna", "bert")[number % 2]
        path = tmp_path / voice / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(16000, 0.1 if voice == "anna" else 0.5), 16000)
        lines.append(f"{voice}/{number}.wav\t{'a sentence of several words' if number < 4 else 'short'}\n")
    (tmp_path / "texts.tsv").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def listeners(monkeypatch):
    """Judges that hear levels."""
    monkeypatch.setattr(judges, "voice_of", lambda x, rate: VOICES["anna" if abs(x).max() < 0.3 else "bert"])
    monkeypatch.setattr(judges, "errors_in_words", lambda text, x, rate: (int(abs(x).max() > 0.8), len(text.split())))
    monkeypatch.setattr(judges, "dnsmos", lambda reference, x, rate: judges.Score(3.0))


def test_sentences_are_the_first_of_each_voice_that_are_long_enough(folder):
    chosen = sentences(folder, ["bert", "anna"], 2)
    assert [each.path.name for each in chosen] == ["1.wav", "3.wav", "0.wav", "2.wav"]
    assert len(sentences(folder, ["anna"], 9)) == 2
    with pytest.raises(UserError, match="no sentence of carl; choose among anna, bert"):
        sentences(folder, ["carl"], 2)
    with pytest.raises(UserError, match="holds no texts"):
        sentences(folder / "anna", ["anna"], 2)


def test_the_right_voice_is_that_of_other_recordings_of_the_speaker(listeners):
    known = {voice: np.stack([vector] * 2) for voice, vector in VOICES.items()}
    spoken = [Spoken(voice, "four words or so", None) for voice in ("anna", "anna", "bert", "bert")]
    levels = iter([0.1, 0.5, 0.5, 0.9])  # anna, bert, bert, and bert too loudly
    found = judge(spoken, lambda each: (np.full(8000, next(levels)), 3), known, "test")
    assert found.right_voice == 0.75 and found.word_errors == 1 / 16
    assert found.voice == pytest.approx((1 + 0.6 + 1 + 1) / 4)
    assert (found.seconds, found.passes, found.dnsmos) == (2.0, 12, 3.0)


def test_a_recording_is_not_compared_with_itself(listeners):
    known = {"anna": np.stack([VOICES["anna"], VOICES["bert"]]), "bert": np.stack([VOICES["bert"]] * 2)}
    levels = iter([0.1, 0.1])
    found = judge([Spoken("anna", "a b", None)] * 2, lambda each: (np.full(9, next(levels)), 0), known, "test")
    assert found.voice == pytest.approx((0.6 + 1) / 2)


def test_a_voice_is_told_by_its_name_or_by_another_sentence():
    spoken = [Spoken(voice, "a b", Path(f"{number}.wav")) for number, voice in enumerate(("anna", "bert", "anna"))]
    named, shown = (
        SimpleNamespace(info=SimpleNamespace(conditioning=kinds)) for kinds in (("labels",), ("reference",))
    )
    assert whose(named, spoken[0], spoken) == {"label": "anna"}
    assert [whose(shown, spoken[k], spoken)["reference"].name for k in (0, 2)] == ["2.wav", "0.wav"]
    with pytest.raises(UserError, match="bert: has one sentence, and the decoder needs another"):
        whose(shown, spoken[1], spoken)


def test_the_command_judges_recordings_codec_and_decoders(folder, listeners, monkeypatch, tmp_path, capsys):
    def two(names, settings, spoken):
        yield "recordings", lambda each: (judge_speech.recording(each), 0)
        yield names[0], lambda each: (np.full(16000, 0.9), 5)

    monkeypatch.setattr(judge_speech, "systems", two)
    command = ["mine", "--data", str(folder), "--voices", "anna", "bert", "--sentences", "2"]
    assert main([*command, "-o", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["systems"]["recordings"]["right_voice"] == 1 and found["systems"]["mine"]["right_voice"] == 0.5
    assert found["systems"]["mine"]["word_errors"] == 4 / 20 and found["sentences"] == 4
    assert main([*command[:-4], "carl"]) == 2
    assert "no sentence of carl" in capsys.readouterr().err


def test_words_are_counted_against_the_text():
    with RECORDING.open("rb") as file:
        samples, rate = soundfile.read(file, dtype="float32")
    heard = judges._words(samples)
    assert len(heard) > 4
    text = " ".join(heard).upper() + "!"
    assert judges.errors_in_words(text, samples, rate) == (0, len(heard))
    assert judges.errors_in_words(text + " More-over.", samples, rate) == (2, len(heard) + 2)
    assert judges.errors_in_words("a b c", np.zeros(16000, np.float32), 16000) == (3, 3)


def test_a_missing_listener_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "resemblyzer", None)
    assert main(["mine", "--data", str(folder), "--voices", "anna"]) == 2
    assert "resemblyzer is missing" in capsys.readouterr().err
