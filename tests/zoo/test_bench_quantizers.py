"""The benchmark of quantizers compares like with like and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch

from zoo.bench_quantizers import bench_quantizers, same_codebooks

TINY = dict(levels=3, size=16, shape=(2, 50, 8), repeats=2, threads=(1,))


def test_the_result_states_times_ratios_and_conditions(tmp_path, capsys):
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    result = bench_quantizers(path, as_json=True, **TINY)
    assert torch.get_num_threads() == threads
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == result
    assert {"command", "hardware", "versions", "date", "seed", "levels", "codes", "latents"} <= result.keys()
    assert result["versions"]["vector-quantize-pytorch"] and result["versions"]["torch"]
    (row,) = result["rows"]
    for task in ("encode", "forward", "train"):
        for kind in ("wall", "cpu"):
            theirs, ours = row[task]["vector-quantize-pytorch"][kind], row[task]["ours"][kind]
            assert row[task]["ratio"][kind] == theirs / ours > 0


def test_both_quantizers_compute_the_same_lively_thing(capsys):
    agreement = bench_quantizers(**TINY)["agreement"]
    assert agreement["codes_equal"] and agreement["codes_used"] == 16
    assert agreement["largest_difference"] < 1e-5 < agreement["deviation_of_latents"] / 100
    assert "encode" in capsys.readouterr().out


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_both_quantizers_learn_by_moving_averages_while_they_are_timed(whose):
    theirs, ours = same_codebooks(2, 16, 8, seed=0)
    z = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    book = (lambda: theirs.layers[1]._codebook.embed) if whose == "theirs" else (lambda: ours.levels[1].embedding)
    before = book().clone()
    theirs.train()(z)
    ours.train()(z.movedim(1, 2))
    assert not torch.equal(book(), before)
