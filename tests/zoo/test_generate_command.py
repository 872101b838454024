"""`zoo generate`: text on stdout, media in files, and one line for whatever cannot be done."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from command_line import one_line
from small_generators import (
    bias_towards,
    masked_picture_decoder,
    masked_speech_decoder,
    picture_decoder,
    save_picture_codec,
    save_speech_codec,
    scales_decoder,
    speech_decoder,
    text_decoder,
)

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.fast import WEIGHTS, for_decoding


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories of models, by name; codecs are `speech`, `other` and `pictures`."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("speech", "other", "pictures")}
    sound, cells = save_speech_codec(found["speech"]), save_picture_codec(found["pictures"])
    checkpoint.save(zoo.create("seanet", sample_rate=8000, filters=2, dim=4, lstm_layers=0), found["other"])
    decoders = {
        "write": text_decoder(), "draft": text_decoder(seed=1), "say": speech_decoder(sound),
        "fill": masked_speech_decoder(sound), "draw": picture_decoder(cells), "paint": masked_picture_decoder(cells),
    }  # fmt: skip
    bias_towards(decoders["say"], 16, -100.0)  # its end
    for name, decoder in decoders.items():
        found[name] = folder / name
        checkpoint.save(decoder, found[name])
    return SimpleNamespace(**found)


def test_text_is_printed_as_it_comes_and_speed_beside_it(run, made):
    code, out, err = run(
        "generate", made.write, "--prompt", "ab", "--steps", 12, "--seed", 1, "--proposer", f"draft:{made.draft}"
    )
    found = zoo.generate(made.write, prompt="ab", steps=12, seed=1)
    assert (code, out) == (0, found.text[0] + "\n")
    assert err.startswith(f"{made.write} -> text: 12 tokens, ") and "drafted steps accepted" in err
    assert err.endswith("; identical\n") and err.count("\n") == 1


def test_several_texts_are_printed_one_below_the_other(run, made):
    code, out, _ = run("generate", made.write, "--prompt", "ab", "--steps", 5, "--count", 2, "-o", "-")
    assert (code, out) == (0, "\n\n".join(zoo.generate(made.write, prompt="ab", steps=5, count=2).text) + "\n")


def test_json_holds_the_text_and_the_counts(run, made, tmp_path):
    (tmp_path / "prompt.txt").write_text("ab")
    code, out, err = run("generate", made.write, "--prompt", tmp_path / "prompt.txt", "--steps", 5, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["text"] == list(zoo.generate(made.write, prompt="ab", steps=5).text)
    assert (facts["tokens"], facts["passes"], facts["exactness"], facts["files"]) == (5, 5, "identical", [])


@pytest.mark.parametrize("weights", ["float16", "bfloat16", "int8"])
def test_matrices_may_be_packed(run, made, weights):
    code, out, _ = run("generate", made.write, "--prompt", "ab", "--steps", 5, "--temperature", 0, "--weights", weights)
    expected = for_decoding(zoo.load(made.write), WEIGHTS[weights])
    assert (code, out) == (0, zoo.generate(expected, prompt="ab", steps=5, temperature=0).text[0] + "\n")


def test_other_weights_are_refused(run, made):
    code, _, err = run("generate", made.write, "--prompt", "ab", "--weights", "float15")
    assert code == 2 and "no weights 'float15'; did you mean 'float16'?" in err


def test_speech_and_pictures_are_written(run, made, tmp_path):
    speech, picture = tmp_path / "a.wav", tmp_path / "a.png"
    code, out, err = run(
        "generate", made.say, "--text", "Good day.", "--class", "bert", "--seconds", 0.2, "-o", speech, "--codec",
        made.speech,
    )  # fmt: skip
    assert (code, err) == (0, "") and speech.exists()
    assert out.startswith(f"{made.say} -> {speech}: 60 tokens, ") and " in 22 passes; identical" in out
    code, out, err = run(
        "generate", made.paint, "--class", "star", "--size", "20x8", "--passes", "3", "--guidance", 2, "--count", 2,
        "-o", picture, "--codec", made.pictures, "--json",
    )  # fmt: skip
    facts = json.loads(out)
    assert (code, err, facts["passes"]) == (0, "", 3)
    assert facts["files"] == [str(tmp_path / f"a-{number}.png") for number in (1, 2)]


REFUSED = {
    "no such model": (["generate", "none", "-o", "a.wav"], "no model 'none'"),
    "a codec": (["generate", "{speech}", "-o", "a.wav"], "is a codec, which turns media into tokens and back"),
    "no file": (["generate", "{say}"], "say which file to write: -o FILE"),
    "unknown class": (["generate", "{say}", "--class", "ana", *"-o a.wav --text Hi".split()], "did you mean 'anna'?"),
    "class beyond": (["generate", "{draw}", "--class", "3", "-o", "a.png"], "no class '3'; there is circle, sq"),
    "class of text": (["generate", "{write}", "--class", "x", "--prompt", "a"], "knows no classes; leave 'x' out"),
    "text for pictures": (["generate", "{draw}", "--text", "a", "-o", "a.png"], "takes labels, and no text"),
    "text to write on": (["generate", "{write}", "--text", "a"], "takes no text; leave it out, or to go on with a"),
    "empty text": (["generate", "{say}", "--text", " ", "-o", "a.wav"], "the text is empty"),
    "no prompt": (["generate", "{write}"], "give the beginning of one: --prompt"),
    "long prompt": (["generate", "{write}", "--prompt", "a" * 64], "has 64 tokens and the decoder room for 64 in"),
    "longer prompt": (["generate", "{write}", "--prompt", "a" * 99], "has 99 tokens and the decoder room for 64 in"),
    "long prompt and steps": (["generate", "{write}", "--prompt", "a" * 60, "--steps", "5"], "shorten the prompt or"),
    "no steps": (["generate", "{write}", "--prompt", "a", "--steps", "0"], "--steps"),
    "no seconds": (["generate", "{say}", "--seconds", "0", "-o", "a.wav"], "seconds is 0.0; ask for more than 0"),
    "too many seconds": (["generate", "{say}", "--seconds", "9", "-o", "a.wav"], "ask for 0.6 s or less"),
    "unknown seconds": (["generate", "{fill}", "-o", "a.wav"], "say how long: --seconds"),
    "too few steps": (["generate", "{say}", "--steps", "2", "-o", "a.wav"], "2 steps make no whole frame more; ask"),
    "one long word": (["generate", "{fill}", "--text", "a" * 33, "-o", "a.wav"], "says at most 32 in one go"),
    "a word drawn out": (
        ["generate", *"{say} --text abc --seconds 99 -o a.wav".split()], "ask for 0.6 s or less, or cut it by more",
    ),
    "a text that is nowhere": (
        ["generate", "{say}", "--text", "book.txt", "-o", "a.wav"], "book.txt: is no file; name one that holds the te",
    ),
    "a prompt that is nowhere": (["generate", "{write}", "--prompt", "no/such.txt"], "no/such.txt: is no file; name o"),
    "unknown proposer": (["generate", "{write}", "--prompt", "a", "--proposer", "ngrm"], "no proposer 'ngrm'; did you"),
    "unknown rule": (
        ["generate", "{write}", "--prompt", "a", "--proposer", "ngram", "--rule", "x"], "no rule 'x'; there is",
    ),
    "draft of other tokens": (
        ["generate", "{write}", "--prompt", "a", "--proposer", "draft:{say}"], "is of another layout; a draft must be",
    ),
    "codec as a draft": (["generate", "{write}", "--prompt", "a", "--proposer", "draft:{speech}"], "is a codec"),
    "rule without drafts": (["generate", "{write}", "--prompt", "a", "--rule", "equal"], "name a proposer"),
    "drafts for filling in": (["generate", "{paint}", "--proposer", "ngram", "-o", "a.png"], "do not go step by step"),
    "passes step by step": (["generate", "{draw}", "--passes", "3", "-o", "a.png"], "passes means nothing for"),
    "passes that are none": (["generate", "{paint}", "--passes", "3,x", "-o", "a.png"], "'3,x' is no list"),
    "no passes": (["generate", "{paint}", "--passes", "0", "-o", "a.png"], "ask for 1 or more"),
    "passes of other codebooks": (
        ["generate", "{paint}", "--passes", "3,2,1", "-o", "a.png"], "passes [3, 2, 1] for 2 codebooks",
    ),
    "unknown codec": (["generate", "{say}", "-o", "a.wav"], "tokens of 'speech', which does not ship"),
    "another codec": (["generate", "{say}", "-o", "a.wav", "--codec", "{other}"], "makes tokens of 'speech' with"),
    "a decoder as codec": (["generate", "{say}", "-o", "a.wav", "--codec", "{write}"], "is a decoder, which continues"),
    "a codec for text": (["generate", "{write}", "--prompt", "a", "--codec", "{speech}"], "codec means nothing for"),
    "sound as picture": (["generate", "{say}", "-o", "a.png"], "makes audio; choose a name that ends in .wav"),
    "picture as sound": (["generate", "{draw}", "-o", "a.wav"], "makes pictures; choose a name that ends in .png"),
    "text as sound": (["generate", "{write}", "--prompt", "a", "-o", "a.wav"], "makes text; choose a name that"),
    "no such folder": (["generate", "{draw}", "-o", "no/a.png"], "does not exist; create it first"),
    "seconds of a picture": (["generate", "{draw}", "--seconds", "1", "-o", "a.png"], "seconds means nothing for pict"),
    "size of sound": (["generate", "{say}", "--size", "8x8", "-o", "a.wav"], "size means nothing for sound"),
    "a size that is none": (["generate", "{draw}", "--size", "8x", "-o", "a.png"], "'8x' is no size"),
    "no pixels": (["generate", "{draw}", "--size", "0x8", "-o", "a.png"], "cannot be; ask for 1 or more"),
    "a large picture": (["generate", "{draw}", "--size", "80x80", "-o", "a.png"], "64; it learned from 16 x 12: "),
    "temperature": (["generate", "{draw}", "--temperature", "-1", "-o", "a.png"], "temperature is -1.0; expected 0 or"),
    "min p": (["generate", "{draw}", "--min-p", "2", "-o", "a.png"], "min_p is 2.0; expected more than 0 and at most"),
    "typical": (["generate", "{draw}", "--typical", "0", "-o", "a.png"], "typical is 0.0; expected more than 0 and at"),
    "guidance that is no number": (
        ["generate", *"{draw} --class star --guidance nan -o a.png".split()], "guidance is nan; give a number above 0",
    ),
    "endless guidance": (["generate", *"{draw} --class star --guidance inf -o a.png".split()], "guidance is inf; give"),
    "no guidance": (["generate", *"{draw} --class star --guidance 0 -o a.png".split()], "guidance is 0.0; give a"),
    "guidance away": (["generate", *"{draw} --class star --guidance -3 -o a.png".split()], "guidance is -3.0; give a"),
    "guidance towards nothing": (["generate", "{draw}", "--guidance", "2", "-o", "a.png"], "give one"),
    "guidance of text": (["generate", "{write}", "--prompt", "a", "--guidance", "2"], "this decoder takes none"),
    "speed without text": (["generate", "{say}", "--speed", "2", "-o", "a.wav"], "speed means nothing for sound"),
    "own speed": (["generate", *"{say} --text Hi --speed 2 -o a.wav".split()], "that speak as fast as they like"),
    "a prompt that is no file": (["generate", "{say}", "--prompt", "Hi", "-o", "a.wav"], "Hi: is no file"),
    "a prompt of another codec": (["generate", "{say}", "--prompt", "{tokens}", "-o", "a.wav"], "was made by"),
    "a prompt of few codebooks": (["generate", "{say}", "--prompt", "{few}", "-o", "a.wav"], "decoder takes one, of 3"),
    "a prompt that is all": (["generate", "{say}", "--prompt", "{long}", "-o", "a.wav"], "goes on with 0.6 s or less"),
    "a picture as prompt": (["generate", "{say}", "--prompt", "{picture}", "-o", "a.wav"], "codes audio"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prompts(made, tmp_path_factory):
    """Files to go on with, most of which will not do."""
    folder = tmp_path_factory.mktemp("prompts")
    found = {name: folder / f"{name}.{kind}" for name, kind in (
        ("tokens", "ztok"), ("few", "ztok"), ("long", "wav"), ("picture", "png"),
    )}  # fmt: skip
    zoo.generate(made.say, found["long"], seconds=0.5, codec=made.speech, seed=3)
    zoo.tokenize(found["long"], found["tokens"], model=str(made.other))
    zoo.tokenize(found["long"], found["few"], model=str(made.speech), codebooks=2)
    zoo.generate(made.draw, found["picture"], codec=made.pictures)
    soundfile.write(found["long"], np.zeros(70 * 80), 8000)
    return found


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_one_line(made, prompts, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = REFUSED[what]
    names = vars(made) | prompts
    arguments = [argument.format(**names) for argument in arguments]
    if "--codec" not in arguments and what != "unknown codec":
        codecs = {"say": made.speech, "fill": made.speech, "draw": made.pictures, "paint": made.pictures}
        codec = codecs.get(arguments[1].rpartition("/")[2])
        arguments += ["--codec", codec] if codec else []
    assert message in one_line(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_codec_that_ships_with_other_weights_is_refused(made):
    """Names alone do not make codes right: of the bundled codec, the digest counts."""
    model = zoo.load(made.say)
    model.tokens = model.tokens.__class__(model.tokens.layout, codec="spectral.speech-16khz", weights="ab" * 32)
    with pytest.raises(UserError, match="weights abababababab, spectral.speech-16khz has weights"):
        zoo.generate(model)


def test_next_scale_pictures_take_neither_prompt_nor_size(tmp_path, made, prompts):
    codec = tmp_path / "scales"
    model = scales_decoder(save_picture_codec(codec, "var-vqvae", "plain"))
    with pytest.raises(UserError, match="of 20 x 20 pixels; leave the size out"):
        zoo.generate(model, size=(8, 8), codec=codec)
    with pytest.raises(UserError, match="takes no prompt"):
        zoo.generate(model, prompt=prompts["picture"], codec=codec)


def test_what_the_call_alone_can_ask_wrongly_is_refused(made):
    with pytest.raises(UserError, match="count is 0"):
        zoo.generate(made.write, prompt="a", count=0)
    for name, value in (("count", 1.5), ("seed", 0.5), ("passes", 1.5)):
        with pytest.raises(UserError, match=f"{name} is {value}; give a whole number"):
            zoo.generate(made.paint, codec=made.pictures, **{"label": "star"} | {name: value})
    with pytest.raises(UserError, match="steps is 1.5; give a whole number"):
        zoo.generate(made.write, prompt="a", steps=1.5)
    with pytest.raises(UserError, match="nobody knows what this decoder's tokens are"):
        zoo.generate(zoo.create("autoregressive", cards=[5], transformer={"width": 8, "layers": 1, "heads": 1}))
    with pytest.raises(UserError, match="leave the stream out"):
        zoo.generate(made.write, prompt="a", count=2, stream=print)
