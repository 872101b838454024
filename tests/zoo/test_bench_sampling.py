"""The benchmark of sampling draws the same requests by all methods and says what each one costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small_generators import (
    masked_picture_decoder,
    masked_speech_decoder,
    picture_decoder,
    save_speech_codec,
    speech_decoder,
    text_decoder,
)

import zoo.bench_sampling
from zoo import checkpoint
from zoo.bench_sampling import BLOCKS, PLAIN, Method, Run, Task, bench_sampling, ratios, same
from zoo.codecs.errors import UserError
from zoo.decoders.heads import HeadsConfig, MultiTokenHeads
from zoo.decoders.sampling.result import Exactness, Recorder, Result

METHODS = (
    Method("copies", dict(proposer="ngram", window=4)),
    Method("guesses", dict(proposer="jacobi", window=4, rule="rejection")),
)


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    text = text_decoder(context=96)
    heads = MultiTokenHeads(HeadsConfig.of(text.info, heads=3))
    heads.tokens = text.tokens
    checkpoint.save(text, folder / "text")
    checkpoint.save(heads, folder / "text-heads")
    checkpoint.save(picture_decoder(), folder / "picture")
    checkpoint.save(masked_picture_decoder(), folder / "masked")
    return folder


def test_all_methods_draw_the_same_requests_and_are_compared_with_one_step_at_a_time(decoders, tmp_path, capsys):
    path, threads = tmp_path / "bench.json", torch.get_num_threads()
    tasks = [
        Task("text", str(decoders / "text"), 0.0, METHODS),
        Task("text", str(decoders / "text"), 1.0, METHODS),
        Task("image", str(decoders / "picture"), 1.0, METHODS, guidance=2.0),
    ]
    result = bench_sampling(path, as_json=True, tasks=tasks, items=3, steps=10)
    assert torch.get_num_threads() == threads
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == result
    assert {"command", "hardware", "versions", "date", "seed", "what", "weights"} <= result.keys()
    for row, task in zip(result["rows"], tasks, strict=True):
        assert [method["method"] for method in row["methods"]] == [PLAIN, "copies", "guesses"]
        assert [int(slots) for slots in row["block"]] == list(BLOCKS) and min(row["block"].values()) > 0
        plain, copies, guesses = row["methods"]
        assert plain["steps_a_pass"] == 1 == plain["same"] and plain["ratio"]["wall"] == [1, 1, 1]
        assert copies["exactness"] == "identical" and copies["same"] == 1
        assert copies["gap"] is None is copies["gap_step"] and "gap" not in plain and "gap" not in guesses
        assert guesses["exactness"] == "distribution"
        assert (guesses["same"] == 1) == (task.temperature == 0)
        for method in row["methods"]:
            assert method["drafted_a_pass"] >= method["accepted_a_pass"] >= 0
            assert method["codes_a_second"] > 0 < method["expected"] and method["overhead"] > 0
            assert (method["nats"] is None) == (task.temperature == 0)


@pytest.mark.parametrize(
    "proposer", ["draft:{}", "suffix-automaton+draft:{}", "bandit+draft:{}+ngram", "early-exit:1", "heads:{}-heads"]
)
def test_all_models_that_draft_count_wherever_they_stand_in_a_proposer(decoders, proposer, capsys):
    text = str(decoders / "text")
    task = Task("text", text, 1.0, [Method("drafts", dict(proposer=proposer.format(text), window=3))])
    (row,) = bench_sampling(as_json=True, tasks=[task], items=1, steps=12)["rows"]
    plain, drafts = row["methods"]
    passes, target = 12 / drafts["steps_a_pass"], row["block"]["4"]
    assert drafts["draft_seconds"] > 0 == plain["draft_seconds"]
    seconds = passes * target + 1e3 * drafts["draft_seconds"]
    assert drafts["expected"] == pytest.approx(12 * row["block"]["1"] / seconds)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_an_identical_method_parts_from_one_step_at_a_time_the_gap_is_told(
    decoders, temperature, monkeypatch, capsys
):
    """The second request is made to part at its step 2, as rounding would do where two scores are that close."""
    drawn = zoo.bench_sampling.run

    def other(decoder, job, number, sampling):
        found = drawn(decoder, job, number, sampling)
        if sampling.proposer is not None and number == 1:
            (result,) = found.results
            codes = result.codes.clone()
            codes[0, 2] = (codes[0, 2] + 1) % 100
            return replace(found, results=[replace(result, codes=codes)])
        return found

    monkeypatch.setattr("zoo.bench_sampling.run", other)
    task = Task("text", str(decoders / "text"), temperature, METHODS[:1])
    _, copies = bench_sampling(as_json=True, tasks=[task], items=2, steps=10)["rows"][0]["methods"]
    assert copies["gap_step"] == 2 and copies["gap"] > 0


def test_what_fills_in_declares_what_its_result_does_and_whether_its_process_is_another(decoders, capsys):
    methods = (
        Method("ahead", dict(proposer="self", passes=[12] * 2)),
        Method("fewer passes", dict(passes=[2] * 2)),
        Method("entropy", dict(passes=[12] * 2, chooser="entropy")),
        Method("threshold", dict(passes=[12] * 2, chooser="threshold")),
    )
    task = Task(
        "image", str(decoders / "masked"), 1.0, methods, plain=Method("one place a pass", dict(passes=[12] * 2))
    )
    found = bench_sampling(as_json=True, tasks=[task], items=1)["rows"][0]["methods"]
    told = {each["method"]: (each["exactness"], each["another_process"]) for each in found}
    assert told == {
        "one place a pass": ("identical", False),
        "ahead": ("identical", False),
        "fewer passes": ("identical", True),
        "entropy": ("identical", True),
        "threshold": ("approximate", True),
    }


def test_media_and_methods_may_be_picked(decoders):
    text, picture = str(decoders / "text"), str(decoders / "picture")
    tasks = [Task("text", text, 0.0, METHODS), Task("image", picture, 1.0, METHODS)]
    (row,) = bench_sampling(as_json=True, tasks=tasks, items=1, steps=6, media=["image"], methods=["gues"])["rows"]
    assert row["decoder"] == picture and [method["method"] for method in row["methods"]] == [PLAIN, "guesses"]
    with pytest.raises(UserError, match="named magic"):
        bench_sampling(tasks=tasks, methods=["magic"])


def test_rows_side_by_side_are_measured_with_what_they_cost_in_quality(decoders, capsys):
    tasks = [Task("image", str(decoders / "picture"), 1.0, (Method("rows", dict(zipar=1)),), guidance=2.0)]
    plain, rows = bench_sampling(as_json=True, tasks=tasks, items=2)["rows"][0]["methods"]
    assert rows["exactness"] == "approximate" and rows["steps_a_pass"] == 24 / 12  # 3 rows, 4 columns, 2 codes a cell
    assert rows["same"] < 1 and rows["nats"] > 0 and rows["nats"] != plain["nats"]
    assert "expected" in plain and "expected" not in rows  # its passes are of many lengths


@pytest.mark.slow
def test_steps_of_two_stages_are_those_of_the_first(capsys):
    tasks = [
        Task("audio", "two-stage.speech-16khz-forced", 0.0, (Method("guesses", dict(proposer="jacobi", window=16)),))
    ]
    plain, guesses = bench_sampling(as_json=True, tasks=tasks, items=1)["rows"][0]["methods"]
    assert plain["steps_a_pass"] == 1 and plain["codes_a_pass"] < 4  # three passes more, for the other codebooks
    assert guesses["same"] == 1 and guesses["steps_a_pass"] > 2 and guesses["codes_a_pass"] > 2 * plain["codes_a_pass"]


def test_decoders_may_be_packed_in_bfloat16(decoders, capsys):
    tasks = [Task("text", str(decoders / "text"), 0.0, METHODS[:1])]
    result = bench_sampling(as_json=True, tasks=tasks, items=1, steps=10, weights="bfloat16")
    assert result["weights"] == "bfloat16" and result["rows"][0]["methods"][1]["same"] == 1


def test_other_weights_are_refused(decoders):
    with pytest.raises(UserError, match="no weights 'float15'; did you mean 'float16'"):
        bench_sampling(tasks=[Task("text", str(decoders / "text"), 0.0, ())], weights="float15")


def made(codes, seconds, steps):
    none = torch.zeros(1, steps, 1)
    result = Result(none.long(), torch.tensor([steps]), none, Exactness.IDENTICAL, Recorder(1).trace())
    return Run(torch.tensor(codes), [result], [result], seconds, seconds, seconds, 0.0, 0.0)


def test_a_ratio_is_that_of_seconds_a_step():
    plain, runs = [made([[1]], 4.0, 8), made([[1]], 3.0, 3)], [made([[1]], 1.0, 4), made([[1]], 1.0, 6)]
    assert ratios(plain, runs, "wall") == [4.0, 2.0, 6.0]


def test_what_is_the_same_ends_with_the_first_other_step():
    one, other = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4]])
    assert same(one, one) == 1 and same(other, one) == 0.5 and same(one[:, :3], one) == 0.75
    assert same(one.view(2, 2, 2), other.view(2, 2, 2)) == 0.5


@pytest.mark.parametrize("decoder", [speech_decoder, masked_speech_decoder])
def test_speech_is_listened_to(decoders, decoder, tmp_path, capsys):
    """What weights of chance say, nobody understands; what fills in takes as many passes as it has places."""
    codec = save_speech_codec(tmp_path / "speech")
    model = decoder(codec, context=400)
    model.tokens = replace(model.tokens, codec=str(tmp_path / "speech"))
    checkpoint.save(model, tmp_path / "decoder")
    masked = decoder is masked_speech_decoder
    plain = Method("plain", dict(passes=[400] * 3) if masked else {})
    method = Method("other", dict(proposer="self", passes=[400] * 3) if masked else dict(proposer="jacobi"))
    task = Task("audio", str(tmp_path / "decoder"), 1.0, [method], plain=plain)
    row, found = bench_sampling(as_json=True, tasks=[task], items=2)["rows"][0]["methods"]
    assert row["quality"]["word_errors"] == found["quality"]["word_errors"] >= 0.9
    assert found["exactness"] == "identical" and found["same"] == 1 and row["steps_a_pass"] == 1
