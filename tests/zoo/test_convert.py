"""Weights in other forms become directories that `zoo.load` takes."""

import json

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

import zoo
from zoo.codecs.errors import UserError
from zoo.convert import convert


@pytest.fixture
def encodec(tmp_path):
    """A small EncodecModel with random weights, saved by transformers; returns it and its folder."""
    torch.manual_seed(0)
    config = EncodecConfig(
        num_filters=8, hidden_size=16, upsampling_ratios=[3, 2], codebook_size=64, target_bandwidths=[96.0, 192.0]
    )
    model = EncodecModel(config).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.02)  # transformers starts with zeros, and then all codes are equal
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


@torch.no_grad()
def test_an_encodec_of_transformers_is_converted_with_its_configuration(encodec, tmp_path):
    model, folder = encodec
    facts = convert(folder, tmp_path / "ours")
    codec = zoo.load(tmp_path / "ours")
    assert codec.weights == facts["sha256"]
    assert codec.info.codebooks == model.config.num_quantizers == 8
    assert codec.config.ratios == (3, 2)
    audio = torch.randn(1, 1, 600) * 0.3
    expected = model.encode(audio, bandwidth=192.0)
    tokens = codec.encode(audio)
    assert torch.equal(tokens.codes, expected.audio_codes[0])
    assert len(tokens.codes.unique()) > 10
    samples = model.decode(expected.audio_codes, expected.audio_scales).audio_values
    torch.testing.assert_close(codec.decode(tokens), samples[..., :600], atol=1e-4, rtol=0)


def test_a_folder_of_another_model_is_refused(encodec, tmp_path):
    _, folder = encodec
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "dac"}))
    with pytest.raises(UserError, match="config.json: is of no model that can be converted"):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_weights_that_do_not_fit_their_configuration_are_refused(encodec, tmp_path):
    _, folder = encodec
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 17}))
    with pytest.raises(UserError, match=r"model.safetensors: tensors do not fit the configuration: .*expected"):
        convert(folder, tmp_path / "ours")


def test_a_file_where_the_directory_is_to_be_stays_as_it_is(encodec, tmp_path):
    (tmp_path / "notes").write_text("mine")
    for target in (tmp_path / "notes", tmp_path / "notes" / "ours"):
        with pytest.raises(UserError, match="notes: is a file; name a directory to write"):
            convert(encodec[1], target)
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_file_that_is_no_training_checkpoint_is_refused(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"text")
    with pytest.raises(UserError, match="last.ckpt: not a checkpoint"):
        convert(tmp_path / "last.ckpt", tmp_path / "ours")
