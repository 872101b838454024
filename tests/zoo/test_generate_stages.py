"""Decoders of two stages speak: the first codebook as any decoder draws that goes step by step, the rest at once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from command_line import one_line
from small_generators import SOUND_SIZES, VOICE_FACTS, core, save_speech_codec, two_stage_decoder

import zoo
import zoo.bench_requests
from zoo import checkpoint
from zoo.bench_sampling import PLAIN, Method, Task, bench_sampling
from zoo.container import TokenReader
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.sampling import Law, Noise, guidance
from zoo.generation_codes import Sampling, draw_codes
from zoo.token_facts import TokenFacts

TEXT = "Good day."


def first_codebook_decoder(model, context=80):
    """The first stage as a decoder by itself, which may draft for it."""
    layout = model.steps
    config = AutoregressiveConfig(layout.cards, core(), context, specials=layout.specials)
    alone = ConditionedAutoregressive(ConditionedConfig(model.config.condition, config)).eval()
    alone.load_state_dict(model.coarse.state_dict())
    alone.tokens = TokenFacts(layout, weights=model.tokens.weights, **VOICE_FACTS)
    return alone


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories of models, by name."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("speech", "say", "groups", "draft")}
    sound = save_speech_codec(found["speech"])
    say, groups = two_stage_decoder(sound), two_stage_decoder(sound, group=2)
    for name, model in (("say", say), ("groups", groups), ("draft", first_codebook_decoder(say))):
        checkpoint.save(model, found[name])
    return SimpleNamespace(**found)


def codes_of(found):
    return [tokens.codes[0] for tokens in found.tokens]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["say", "groups"])
def test_a_loaded_decoder_says_what_its_own_loops_draw(made, name):
    model = zoo.load(getattr(made, name))
    asked = dict(text=TEXT, label="bert", seconds=0.4, seed=3, codec=made.speech)
    found = zoo.generate(getattr(made, name), temperature=0.7, guidance=1.5, **asked)
    law, cond = Law(0.7, streams=guidance(1.5)), Conditions(torch.tensor([1]), text_ids([TEXT]))
    fine = Law(0, streams=guidance(1.5))
    codes, lengths = model.generate(1, 40, law, Noise(3, rows=(0,)), cond, fine_law=fine)
    assert same(codes_of(found), [codes[0]]) and 0 < lengths[0] <= 40
    groups = -(-int(lengths[0]) // model.config.group)
    assert found.facts()["passes"] - groups - len(SOUND_SIZES) + 1 in (0, 1)  # the end takes one, if it came
    assert found.drawn == codes.numel() and found.exactness == "identical"


def test_what_is_saved_draws_the_same_as_what_was_trained(tmp_path):
    sound, model = save_speech_codec(tmp_path / "speech"), None
    model = two_stage_decoder(sound, timed=True)
    checkpoint.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert again.tokens == model.tokens and again.config == model.config
    assert again.coarse.encoder.timing is again.fine.encoder.timing
    asked = dict(text=TEXT, codec=tmp_path / "speech", seed=1)
    assert same(codes_of(zoo.generate(again, **asked)), codes_of(zoo.generate(model, **asked)))


@pytest.mark.parametrize("name", ["say", "groups"])
def test_each_sample_is_the_same_however_many_there_are(made, name):
    asked = dict(text="One. Two, and then three. Four.", codec=made.speech)  # in two pieces
    many, one = (codes_of(zoo.generate(getattr(made, name), seed=5, count=n, **asked)) for n in (3, 1))
    assert same(one, many[:1]) and not same(one, many[1:2])


@pytest.mark.parametrize("proposer", ["draft:{draft}", "ngram", "jacobi"])
def test_drafts_of_the_first_codebook_change_nothing(made, proposer):
    asked = dict(text=TEXT, seed=2, temperature=0.3, codec=made.speech)
    plain, drafted = (zoo.generate(made.say, proposer=name, **asked) for name in (None, proposer.format(**vars(made))))
    assert same(codes_of(plain), codes_of(drafted)) and drafted.exactness == "identical"
    first, _ = drafted.results
    accepted = int(first.trace.accepted.sum()) / len(first.trace.target_forwards)
    assert drafted.facts()["accepted_length"] == accepted and plain.facts()["accepted_length"] is None
    assert accepted > 3 or "draft" not in proposer  # that one is the first stage itself, and drafts 5 steps


def test_the_law_of_the_first_stage_is_bent_as_it_is_told(made):
    asked = dict(text=TEXT, seconds=0.4, temperature=0.5, codec=made.speech, seed=1)
    (plain,), (bent,) = (codes_of(zoo.generate(made.say, processors=each, **asked)) for each in ((), ("no-repeat:1",)))
    first = bent[0].tolist()
    assert len(set(first)) == len(first) and len(set(plain[0].tolist())) < plain.shape[1]
    aware = zoo.generate(made.say, processors=["repetition-aware:0.1,10"], top_p=0.5, **asked)
    assert not same(codes_of(aware), [plain])
    (searched,) = codes_of(zoo.generate(made.say, search="beam:3", text=TEXT, seconds=0.1, codec=made.speech))
    assert searched.shape[0] == 3 and searched.shape[1] <= 10


def test_a_prompt_stands_in_front_in_all_codebooks(made, tmp_path):
    zoo.generate(made.say, tmp_path / "a.ztok", seconds=0.05, seed=4, codec=made.speech)
    with TokenReader(tmp_path / "a.ztok") as reader:
        given = reader.tokens().codes[0]
    assert 0 < given.shape[1] <= 5
    for name in ("say", "groups"):
        asked = dict(prompt=tmp_path / "a.ztok", codec=made.speech)
        (codes,) = codes_of(zoo.generate(getattr(made, name), steps=7, **asked))
        assert torch.equal(codes[:, : given.shape[1]], given)
        assert given.shape[1] <= codes.shape[1] <= given.shape[1] + 7 and codes.min() >= 0


def test_what_a_prompt_leaves_open_of_the_first_codebook_the_first_stage_draws(made):
    model, prompt = zoo.load(made.say), torch.zeros(len(SOUND_SIZES), 4, dtype=torch.int64)
    prompt[0, :2] = -1
    drawn = draw_codes(model, model.layout, [(6,)], [0], None, Sampling(Law()), prompt)
    (codes,), first = drawn.codes, drawn.results[0].codes[0, :, 0]
    assert torch.equal(codes[0], first[: codes.shape[1]]) and codes.shape[1] >= 4
    assert torch.equal(codes[1:, :4], prompt[1:])


def test_a_row_that_ends_at_once_is_silent_for_a_moment(made):
    model, end = zoo.load(made.say), torch.nn.functional.one_hot(torch.tensor(16), 17)
    model.coarse.decoder.heads.register_forward_hook(lambda heads, given, logits: logits + 1000 * end)
    found = zoo.generate(model, text=TEXT, codec=made.speech, count=2)
    assert found.drawn == 0 and found.media[0].shape == (1, 1200)


REFUSED = {
    "passes": (["--passes", "3"], "passes means nothing for decoders whose second stage takes one pass for each"),
    "a draft of all codebooks": (["--proposer", "draft:{say}"], "is of another layout; a draft must be of the same"),
    "its own drafts": (["--proposer", "self"], "there is no proposer 'self'"),
    "another speed": (["--speed", "2"], "that speak as fast as they like"),
    "rows side by side": (["--zipar", "2"], "this one's layout is Parallel, of audio"),
    "too long": (["--seconds", "9"], "ask for 0.6 s or less"),
    "a picture": (["-o", "a.png"], "makes audio; choose a name that ends in .wav"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_do_is_one_line(made, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = REFUSED[what]
    arguments = ["generate", str(made.say), "--text", TEXT, "--codec", str(made.speech), "-o", "a.wav"]
    assert message in one_line(capsys, *arguments, *(option.format(**vars(made)) for option in options))


def test_the_command_speaks_and_tells_what_the_decoder_is(run, made, tmp_path):
    code, out, err = run("generate", made.say, "--text", TEXT, "-o", tmp_path / "a.wav", "--codec", made.speech)
    assert (code, err) == (0, "") and out.endswith("; identical\n") and (tmp_path / "a.wav").exists()
    code, out, _ = run("info", made.say, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["cards"] == [17, 16, 16] and facts["conditioning"] == ["labels", "text"]
    assert facts["layout"]["end"] and not facts["causal"] and facts["labels"] == ["anna", "bert"]


def test_its_drafts_are_measured_as_those_of_other_decoders(made, tmp_path, monkeypatch, capsys):
    codec = zoo.load(made.speech)
    monkeypatch.setattr(zoo.bench_requests.registry, "load_codec", lambda *_: codec)  # none of this name ships
    model = two_stage_decoder(codec.weights, context=300)
    checkpoint.save(model, tmp_path / "say")
    checkpoint.save(first_codebook_decoder(model, context=320), tmp_path / "draft")
    method = Method("drafts", dict(proposer=f"draft:{tmp_path / 'draft'}"))
    task = Task("audio", str(tmp_path / "say"), 0.5, [method], guidance=2.0)
    (row,) = bench_sampling(as_json=True, tasks=[task], items=1)["rows"]
    plain, drafts = row["methods"]
    assert plain["method"] == PLAIN and drafts["same"] == 1 and drafts["exactness"] == "identical"
    assert drafts["draft_seconds"] > 0 == plain["draft_seconds"] and plain["overhead"] > 0
