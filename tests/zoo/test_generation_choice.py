"""`zoo generate` reaches every way of filling in by its name, and says what is wrong with other names."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from command_line import one_line
from safetensors.torch import save_file
from small_generators import (
    SOUND_SIZES,
    answering,
    core,
    masked_picture_decoder,
    masked_speech_decoder,
    picture_decoder,
    save_picture_codec,
    scales_decoder,
    text_decoder,
)

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.layouts import Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, Masking
from zoo.decoders.sampling import choosers
from zoo.decoders.sampling.schedules import SCHEDULES
from zoo.filter_files import read_filter, write_filter
from zoo.filter_training import train_filter
from zoo.generation_choice import CHOOSERS, chooser_for, schedule_for
from zoo.generation_request import sampling_for
from zoo.token_facts import TokenFacts, facts_from_json
from zoo.vocabulary import Vocabulary


def masked_text_decoder(seed=0):
    """Fills in bytes."""
    layout = Parallel((Vocabulary().card,))
    model = MaskedDecoder(MaskedConfig(layout.cards, core(causal=False), 64))
    return answering(model, TokenFacts(layout, Vocabulary()), seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    cells = save_picture_codec(folder / "pictures")
    decoders = {
        "paint": masked_picture_decoder(cells), "draw": picture_decoder(cells), "write": text_decoder(),
        "begun": text_decoder(begin=True), "fill": masked_text_decoder(),
    }  # fmt: skip
    for name, decoder in decoders.items():
        checkpoint.save(decoder, folder / name)
    write_filter(folder / "filter.safetensors", choosers.Filter(4, 8))
    return SimpleNamespace(folder=folder, pictures=folder / "pictures", **decoders)


def paint(made, **settings):
    return zoo.generate(made.paint, label="star", codec=made.pictures, passes=6, **settings)


def write(made, chooser, **settings):
    return zoo.generate(made.fill, prompt="ab", steps=10, passes=10, chooser=chooser, **settings)


def written(made):
    """Each way to write a chooser, with names filled in."""
    files = {"MODEL": str(made.folder / "begun"), "FILE": str(made.folder / "filter.safetensors")}
    ways = {}
    for way in CHOOSERS:
        name, _, what = way.partition(":")
        ways[way] = f"{name}:{files[what]}" if what else name
    return ways


def test_every_chooser_writes_text_that_keeps_its_prompt(made):
    for way, chooser in written(made).items():
        if way == "rescored":  # this decoder has no condition to do without
            continue
        found = write(made, chooser, seed=3)
        assert found.text[0].startswith("ab") and found.facts()["passes"] <= 10
        assert found.facts()["exactness"] == str(chooser_for(made.fill, "text", chooser)(None).exactness)


def test_choosers_that_need_no_other_model_draw_pictures(made):
    usual, others = paint(made), set()
    for way, chooser in written(made).items():
        if "MODEL" not in way:
            codes = paint(made, chooser=chooser).tokens[0].codes
            assert codes.shape == usual.tokens[0].codes.shape
            others |= set() if torch.equal(codes, usual.tokens[0].codes) else {way}
    assert torch.equal(paint(made, chooser="confidence").tokens[0].codes, usual.tokens[0].codes)
    assert others >= {"entropy", "halton", "left-to-right", "margin", "random"}


def test_settings_stand_behind_the_name_and_the_usual_order_behind_them(made):
    def of(chooser):
        return chooser_for(made.paint, "image", chooser)(None)

    usual = choosers.Confidence(4.5)
    assert of(None) == of("confidence") == usual and of("confidence:2") == choosers.Confidence(2)
    assert of("threshold:.5") == choosers.Threshold(0.5, order=usual)
    assert of("local-leap:.5,.3,2") == choosers.LocalLeap(0.5, 0.3, 2, order=usual)
    assert of("remask:.2") == choosers.Remask(0.2, order=usual)
    assert of("spans:2") == choosers.Spans(2, order=usual) and of("margin") == choosers.Margin()
    assert of("rescored") == choosers.Rescored(choosers.Judge(made.paint), temperature=4.5)
    own = choosers.Prophet(1.0)
    assert of(own) is own and of(lambda cond: own) is own


def test_a_judge_that_has_a_begin_step_is_told_so(made):
    chooser = chooser_for(made.fill, "text", f"adaptive:{made.folder / 'begun'}")(None)
    assert chooser.judge.begin == (259,)  # behind 257 tokens: mask, padding, begin
    assert chooser_for(made.fill, "text", f"adaptive:{made.folder / 'write'}")(None).judge.begin is None


def test_schedules_are_chosen_by_name(made):
    emitted = {name: paint(made, schedule=name).results[0].trace.emitted[:, 0].tolist() for name in (None, *SCHEDULES)}
    assert emitted[None] == emitted["cosine"] != emitted["linear"] != emitted["arccos"]
    assert schedule_for(made.fill, "text", None) == "linear"


def test_a_decoder_is_filled_in_as_it_learned_whatever_its_shape_makes_one_think():
    def learned(levels, **masking):
        model = masked_speech_decoder(levels=levels)
        model.tokens = replace(model.tokens, masking=Masking(SOUND_SIZES, **masking) if masking else None)
        return sampling_for(model, "audio")

    assert learned(False).passes == 16 and learned(True).passes == [16, 8, 4]  # nobody noted how, so its shape tells
    assert learned(True, by_level=False).passes == 16 and learned(False, by_level=True).passes == [16, 8, 4]
    assert learned(False, by_level=True, schedule="all").passes == [1, 1, 1]
    assert learned(True, schedule="linear").schedule == "linear"
    assert learned(True, by_level=True, schedule="all").schedule == "cosine"
    assert learned(True, span=3).chooser(None) == choosers.Spans(3, order=choosers.Confidence(0.0))


def test_how_a_decoder_learned_lies_beside_its_weights(tmp_path):
    model = masked_speech_decoder()
    model.tokens = replace(model.tokens, masking=Masking(SOUND_SIZES, by_level=True, levels=(2.0, 1.0, 1.0), span=3))
    checkpoint.save(model, tmp_path)
    assert zoo.load(tmp_path).tokens == model.tokens
    values = model.tokens.to_json()
    with pytest.raises(UserError, match="tokens.json: masking: unknown field 'spann'; did you mean 'span'"):
        facts_from_json(values | {"masking": {"spann": 3}}, "tokens.json")
    del values["masking"]  # as in files of before
    assert facts_from_json(values, "tokens.json").masking is None


def test_what_a_decoder_drafts_for_itself_changes_nothing_but_the_passes(made):
    for text in (False, True):
        plain, fast = (
            write(made, "left-to-right", temperature=0.1, proposer=proposer)
            if text
            else paint(made, count=3, guidance=2.0, proposer=proposer)
            for proposer in (None, "self")
        )
        assert torch.equal(plain.results[0].codes, fast.results[0].codes)
        assert fast.facts()["passes"] <= plain.facts()["passes"] and fast.facts()["exactness"] == "identical"
    assert write(made, "left-to-right", temperature=0, proposer="self", window=9).facts()["passes"] < 10


def test_a_filter_is_trained_on_what_the_decoder_makes_and_kept_in_a_file(made, tmp_path):
    settings = dict(codec=made.pictures, count=2, passes=4)
    network = train_filter(made.paint, ["star", "circle"], steps=5, **settings)
    write_filter(tmp_path / "f.safetensors", network)
    again = read_filter(tmp_path / "f.safetensors")
    certainty = torch.rand(2, 9, 2)
    assert torch.equal(network(certainty), again(certainty))
    with pytest.raises(UserError, match="two steps or more; ask for more passes"):
        train_filter(made.paint, ["star"], codec=made.pictures, passes=1)
    with pytest.raises(UserError, match="goes step by step"):
        train_filter(made.write, [None])


def test_the_help_names_every_chooser_and_schedule(run):
    code, out, _ = run("generate", "--help")
    words = "".join(sign if sign.isalnum() or sign in "-:" else " " for sign in out).split()
    assert code == 0 and {*CHOOSERS, *SCHEDULES, "self"} <= {word.strip(":") for word in words} | {*words}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--chooser", "entropie"], "there is no chooser 'entropie'; did you mean 'entropy'?"),
        (["--chooser", "threshold:high"], "'high' is no setting of a chooser; give numbers, as in threshold:0.8"),
        (["--chooser", "threshold:2"], "a threshold of 2; expected a probability"),
        (["--chooser", "spans:1,2"], "takes length; '1,2' is more than that"),
        (["--chooser", "entropy:1"], "takes no settings"),
        (["--chooser", "adaptive"], "name the model that is asked, too: adaptive:MODEL"),
        (["--chooser", "rescored"], "name a model: rescored:MODEL"),
        (["--chooser", "learned:nowhere"], "nowhere: cannot be read as a filter"),
        (["--chooser", "adaptive:DRAW"], "is of another layout"),
        (["--schedule", "cosinus"], "there is no schedule 'cosinus'; did you mean 'cosine'?"),
        (["--proposer", "ngram"], "unless it is 'self'"),
        (["--proposer", "self", "--rule", "equal"], "rule means nothing for what a decoder drafts for itself"),
        (["--window", 3], "name a proposer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(capsys, made, settings, message):
    given = [str(made.folder / "draw").join(str(word).split("DRAW")) for word in settings]
    assert message in one_line(capsys, "generate", made.folder / "fill", "--prompt", "ab", *given)


def test_others_than_decoders_that_fill_in_choose_no_places(made, tmp_path):
    for settings in ({"chooser": "entropy"}, {"schedule": "linear"}):
        with pytest.raises(UserError, match="means nothing for decoders that go step by step"):
            zoo.generate(made.write, prompt="ab", **settings)
    digest = save_picture_codec(tmp_path, "var-vqvae", "plain")
    for settings in ({"chooser": "entropy"}, {"schedule": "linear"}, {"proposer": "self"}, {"passes": 3}):
        with pytest.raises(UserError, match="means nothing for decoders of scales"):
            zoo.generate(scales_decoder(digest), label="star", codec=tmp_path, **settings)


def test_files_of_other_things_are_no_filters(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="is no filter"):
        read_filter(tmp_path / "x.safetensors")
