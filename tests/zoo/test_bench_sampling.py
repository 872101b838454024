"""The benchmark of sampling draws the same requests by all methods and says what each one costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small_generators import (
    masked_speech_decoder,
    picture_decoder,
    save_speech_codec,
    speech_decoder,
    text_decoder,
)

from zoo import checkpoint
from zoo.bench_sampling import BLOCKS, PLAIN, Method, Run, Task, bench_sampling, ratios, same
from zoo.codecs.errors import UserError
from zoo.decoders.sampling.result import Exactness, Recorder, Result

METHODS = (
    Method("copies", dict(proposer="ngram", window=4)),
    Method("guesses", dict(proposer="jacobi", window=4, rule="rejection")),
)


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    checkpoint.save(text_decoder(context=96), folder / "text")
    checkpoint.save(picture_decoder(), folder / "picture")
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
        assert guesses["exactness"] == "distribution"
        assert (guesses["same"] == 1) == (task.temperature == 0)
        for method in row["methods"]:
            assert method["drafted_a_pass"] >= method["accepted_a_pass"] >= 0
            assert method["codes_a_second"] > 0 < method["expected"] and method["overhead"] > 0
            assert (method["nats"] is None) == (task.temperature == 0)


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
    return Run(torch.tensor(codes), [result], seconds, seconds, seconds, 0.0)


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
