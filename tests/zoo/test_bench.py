"""The benchmark compares like with like and says what it measured."""

from __future__ import annotations

import json

import torch

from zoo.bench import _floor, bench_codecs
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig
from zoo.codecs.layers.conv import Conv

TINY = SEANetConfig(filters=4, dim=16, ratios=(3, 2), codebooks=4, codebook_size=64)


def test_the_result_states_times_ratios_layers_and_conditions(tmp_path, capsys):
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    result = bench_codecs(path, as_json=True, config=TINY, seconds=0.05, codebooks=2, repeats=2, settings=((1, 1),))
    assert torch.get_num_threads() == threads
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == result
    assert {"command", "hardware", "versions", "date", "seed", "floor_of_one_clip_and_thread"} <= result.keys()
    assert result["versions"]["transformers"] and result["versions"]["torch"]
    (row,) = result["rows"]
    for task in ("encode", "decode"):
        theirs, ours = row[task]["transformers"]["cpu"], row[task]["ours"]["cpu"]
        assert row[task]["ratio"]["cpu"] == theirs / ours > 0
    # 2 ratios: first, 2 x (residual, ELU, convolution), LSTM, ELU, last; in encoder and decoder
    assert len(row["layers"]) == 2 * 10
    assert all(layer["ours"] > 0 and layer["transformers"] > 0 for layer in row["layers"])


def test_the_floor_counts_the_multiplications_of_the_published_architecture():
    codec = SEANetCodec().eval()
    macs = 0

    def count(layer, inputs, _):
        steps = inputs[0].shape[1] // layer.stride
        nonlocal macs
        macs += steps * layer.weight.numel()

    for layer in codec.encoder.modules():
        if isinstance(layer, Conv):
            layer.register_forward_hook(count)
            layer.norm = torch.nn.Identity()  # keeps each convolution a call of its own
    codec.forward(torch.zeros(1, 1, 3200), quantize=False)
    recurrent = 2 * 4 * 512 * 512 * 10  # layers, gates, frames
    assert _floor(codec, 10)["gigaflop_in_products"] * 1e9 == 2 * (macs + recurrent)


def test_both_implementations_compute_the_same_lively_thing(capsys):
    result = bench_codecs(config=TINY, seconds=0.05, codebooks=4, repeats=1, settings=((1, 1),))
    agreement = result["agreement"]
    assert agreement["codes_equal"]
    assert agreement["codes_used"] > 20
    assert agreement["largest_difference"] < 1e-4 < agreement["deviation_of_samples"] / 50
    assert "encode" in capsys.readouterr().out
