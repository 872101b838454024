"""The benchmark of decoders compares generation from equal weights and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch

from zoo.bench_decoders import THEIRS, as_llama, bench_decoders, random_decoder
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.transformer import TransformerConfig

SHAPE = AutoregressiveConfig((37,), TransformerConfig(width=16, layers=2, heads=4, kv_heads=2), context=64)


def test_the_result_states_speeds_ratios_and_conditions(tmp_path, capsys):
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    result = bench_decoders(output=path, as_json=True, config=SHAPE, batches=(1, 3), prompt=4, steps=6, repeats=2)
    assert torch.get_num_threads() == threads
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == result
    assert {"command", "hardware", "versions", "date", "seed", "parameters", "prompt", "steps"} <= result.keys()
    assert result["versions"]["transformers"] and result["versions"]["torch"]
    assert [row["batch"] for row in result["rows"]] == [1, 3]
    for row in result["rows"]:
        assert row["ways"][THEIRS]["ratio"]["cpu"] == [1, 1, 1]
        for way in row["ways"].values():
            for kind in ("wall", "cpu"):
                middle, least, most = way["ratio"][kind]
                assert 0 < least <= middle <= most
                assert way[f"tokens_per_{kind}_second"] == row["batch"] * 6 / way[kind]


@pytest.mark.parametrize(("tied", "tokens"), [(False, 4), (True, 2)])  # a tied head echoes the last one of each row
def test_every_way_of_float32_generates_the_same_lively_tokens(tied, tokens, capsys):
    shape = AutoregressiveConfig(SHAPE.cards, SHAPE.transformer, SHAPE.context, tied=tied)
    (row,) = bench_decoders(config=shape, batches=(2,), prompt=5, steps=20, repeats=1)["rows"]
    for name in (THEIRS, f"{THEIRS}, static cache", "ours", "ours, for decoding, float32"):
        assert row["ways"][name]["same_tokens"] == 1
    assert row["different_tokens"] >= tokens
    assert "same tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"cards": (37, 37)}, {"specials": 2}, {"learned_positions": True}, {"head_bias": True}]
)
def test_a_decoder_that_transformers_does_not_have_is_refused(changes):
    shape = AutoregressiveConfig(**{"cards": (37,), "transformer": SHAPE.transformer} | changes)
    with pytest.raises(UserError, match="transformers has no model of this shape"):
        as_llama(random_decoder(shape, 0))
