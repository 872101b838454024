"""Weights come out of a file as they went in, within the type that they were stored in."""

import json

import pytest
import torch
from command_line import one_line
from safetensors.torch import load_file, save_file

import zoo
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.layouts import Parallel
from zoo.decoders.transformer import TransformerConfig
from zoo.stored_weights import restored, stored
from zoo.token_facts import TokenFacts

torch.manual_seed(0)


def test_whole_numbers_are_within_half_a_step_of_each_row():
    matrix = torch.randn(5, 3, 4) * torch.tensor([1e-3, 1, 1e3, 0, 1])[:, None, None]
    files = stored("w", matrix, torch.int8)
    assert {name: part.dtype for name, part in files.items()} == {"w": torch.int8, "w#scale": torch.float32}
    step = matrix.abs().flatten(1).amax(1) / 127
    assert ((restored(files)["w"] - matrix).abs().flatten(1).amax(1) <= step * 0.500001).all()
    assert files["w"].flatten(1)[[0, 1, 2, 4]].abs().amax(1).tolist() == [127] * 4


@pytest.mark.parametrize("tensor", [torch.randn(7), torch.arange(6).view(2, 3), torch.tensor([[1.0, torch.nan]])])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
def test_vectors_counters_and_what_is_not_finite_stay(tensor, dtype):
    files = stored("w", tensor, dtype)
    assert list(files) == ["w"] and files["w"].dtype == tensor.dtype
    torch.testing.assert_close(restored(files)["w"], tensor, rtol=0, atol=0, equal_nan=True)


def test_what_float16_cannot_hold_stays():
    assert stored("w", torch.tensor([[1e5, 1.0]]), torch.float16)["w"].dtype == torch.float32


@pytest.mark.parametrize("tensors", [{"w#scale": torch.ones(2)}, {"w": torch.ones(3, 2), "w#scale": torch.ones(2)}])
def test_scales_of_nothing_are_refused(tensors):
    with pytest.raises(ValueError, match="scales no matrix of 2 rows"):
        restored(tensors)


def decoder():
    model = AutoregressiveDecoder(AutoregressiveConfig((300,), TransformerConfig(64, 2, 2), tied=True)).eval()
    model.tokens = TokenFacts(Parallel((300,)))
    return model


def test_a_model_of_whole_numbers_takes_a_quarter_and_says_nearly_the_same(tmp_path):
    model, tokens = decoder(), torch.randint(0, 300, (2, 9, 1))
    for dtype, name in ((torch.float32, "whole"), (torch.int8, "quarter")):
        zoo.checkpoint.save(model, tmp_path / name, dtype)
    whole, quarter = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "quarter"))
    assert quarter < 0.3 * whole
    torch.testing.assert_close(zoo.load(tmp_path / "quarter")(tokens).logits, model(tokens).logits, rtol=0, atol=0.05)


def test_a_file_whose_scales_fit_nothing_is_refused(tmp_path):
    zoo.checkpoint.save(decoder(), tmp_path, torch.int8)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("#scale"))
    save_file(tensors | {name: tensors[name][1:]}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sha256": ""}))
    with pytest.raises(UserError, match="scales no matrix"):
        zoo.load(tmp_path)


def test_two_ways_to_store_are_one_too_many(tmp_path, capsys):
    assert "choose one" in one_line(capsys, "convert", tmp_path / "a.ckpt", "-o", tmp_path / "b", "--half", "--int8")
