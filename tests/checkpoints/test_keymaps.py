"""Key maps rename and reshape both ways, and name what does not fit."""

from __future__ import annotations

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from zoo.checkpoints.keymaps import KEYMAPS, KeyMap, Rule, encodec
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig


def small_pair(group_norm: bool) -> tuple[EncodecModel, SEANetCodec, KeyMap]:
    norm, causal = ("group", False) if group_norm else ("weight", True)
    theirs = EncodecConfig(
        num_filters=4, hidden_size=16, upsampling_ratios=[3, 2], codebook_size=8, num_residual_layers=2,
        target_bandwidths=[36.0], norm_type="time_group_norm" if group_norm else "weight_norm", use_causal_conv=causal,
    )  # fmt: skip
    sizes = {"filters": 4, "dim": 16, "ratios": (3, 2), "codebooks": theirs.num_quantizers, "codebook_size": 8}
    config = SEANetConfig(residual_layers=2, norm=norm, causal=causal, **sizes)
    keymap = encodec((3, 2), residual_layers=2, weight_norm=not group_norm)
    return EncodecModel(theirs), SEANetCodec(config).fuse(), keymap


@pytest.mark.parametrize("group_norm", [False, True])
def test_ours_to_theirs_and_back_is_the_identity(group_norm):
    _, codec, keymap = small_pair(group_norm)
    ours = codec.state_dict()
    back = keymap.read(keymap.write(ours))
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)


@pytest.mark.parametrize("group_norm", [False, True])
def test_their_model_takes_what_is_written_and_both_hold_the_same_names(group_norm):
    model, codec, keymap = small_pair(group_norm)
    written = keymap.write(codec.state_dict())
    model.load_state_dict(written)
    assert written.keys() == model.state_dict().keys()


def test_the_published_spelling_of_weight_norm_is_read_too():
    model, _, keymap = small_pair(group_norm=False)
    theirs = model.state_dict()
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in theirs.items()
    }
    assert old.keys() != theirs.keys()
    expected = keymap.read(theirs)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in keymap.read(old).items())


@pytest.mark.parametrize(
    ("name", "config"),
    [("encodec-24khz", SEANetConfig.encodec_24khz()), ("encodec-48khz", SEANetConfig.encodec_48khz())],
)
def test_named_maps_cover_the_published_architectures(name, config):
    theirs = EncodecConfig()
    if name == "encodec-48khz":
        theirs = EncodecConfig(
            sampling_rate=48000, audio_channels=2, normalize=True, norm_type="time_group_norm", use_causal_conv=False,
            target_bandwidths=[3.0, 6.0, 12.0, 24.0],
        )  # fmt: skip
    codec = SEANetCodec(config).fuse()
    codec.load_state_dict(KEYMAPS[name].read(EncodecModel(theirs).state_dict()))


def test_a_missing_partner_and_an_unknown_tensor_are_named():
    model, _, keymap = small_pair(group_norm=False)
    theirs = model.state_dict()
    missing = "encoder.layers.0.conv.parametrizations.weight.original1"
    with pytest.raises(ValueError, match=missing):
        keymap.read({name: tensor for name, tensor in theirs.items() if name != missing})
    with pytest.raises(ValueError, match="stranger.weight"):
        keymap.read(theirs | {"stranger.weight": torch.zeros(1)})


def test_the_first_rule_that_fits_takes_a_name():
    double = lambda x: (2 * x,)  # noqa: E731
    keymap = KeyMap((Rule(("a.1.w",), ("one",), double), Rule(("a.{n}.w",), ("b.{n}",))))
    read = keymap.read({"a.1.w": torch.ones(1), "a.2.w": torch.ones(1)})
    assert {name: float(tensor) for name, tensor in read.items()} == {"one": 2, "b.2": 1}
