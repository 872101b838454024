"""Configured as EnCodec 24 kHz, the codec is EnCodec: same file, same codes, same samples as `transformers`."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from transformers import EncodecConfig, EncodecModel

from zoo.bench import enliven
from zoo.checkpoints.keymaps import KEYMAPS, encodec
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig

RATES = {1.5: 2, 6.0: 8, 24.0: 32}  # kbps: codebooks, of 10 bits at 75 Hz each


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[EncodecModel, SEANetCodec]:
    torch.manual_seed(0)
    theirs = EncodecModel(EncodecConfig()).eval()
    enliven(theirs)
    folder = tmp_path_factory.mktemp("encodec")
    theirs.save_pretrained(folder)
    ours = SEANetCodec(SEANetConfig.encodec_24khz()).fuse().eval()
    ours.load_state_dict(KEYMAPS["encodec-24khz"].read(safetensors.torch.load_file(folder / "model.safetensors")))
    return theirs, ours


# One sample; less than the mirrored padding; frames of 320 samples minus, plus and without one; half a second.
@pytest.mark.parametrize("length", [1, 5, 319, 320, 321, 2240, 12001])
@torch.no_grad()
def test_codes_and_samples_equal_transformers_encodec_at_every_rate(pair, length):
    theirs, ours = pair
    audio = torch.randn(2, 1, length, generator=torch.Generator().manual_seed(length)) * 0.3
    for kbps, codebooks in RATES.items():
        expected = theirs.encode(audio, bandwidth=kbps)
        samples = theirs.decode(expected.audio_codes, expected.audio_scales).audio_values
        tokens = ours.encode(audio, codebooks)
        assert torch.equal(tokens.codes, expected.audio_codes[0])
        assert (ours.decode(tokens) - samples[..., :length]).abs().max() < 1e-4
        assert ours.info.kbps(codebooks) == kbps


@torch.no_grad()
def test_the_audio_that_is_compared_is_not_nearly_constant(pair):
    theirs, ours = pair
    audio = torch.randn(1, 1, 12000, generator=torch.Generator().manual_seed(1)) * 0.3
    tokens = ours.encode(audio, 32)
    assert ours.decode(tokens).std() > 0.02  # 200 times the tolerance
    assert min(len(level.unique()) for level in tokens.codes[0]) > 5  # of 38 frames


def small(**changes) -> tuple[EncodecModel, SEANetCodec]:
    """Both codecs in a small form; `changes` are fields of both configurations, by our name."""
    names = {"causal": "use_causal_conv", "trim_right": "trim_right_ratio", "pad": "pad_mode", "normalize": "normalize"}
    names |= {"shortcut": "use_conv_shortcut", "residual_layers": "num_residual_layers", "channels": "audio_channels"}
    values = {"norm": "time_group_norm" if changes.get("norm") == "group" else "weight_norm"}
    theirs = EncodecConfig(
        num_filters=4, hidden_size=16, upsampling_ratios=[3, 2], codebook_size=64, target_bandwidths=[192.0],
        norm_type=values["norm"], **{names[name]: value for name, value in changes.items() if name in names},
    )  # fmt: skip
    config = SEANetConfig(
        filters=4, dim=16, ratios=(3, 2), codebook_size=64, codebooks=theirs.num_quantizers, **changes
    )
    model = EncodecModel(theirs).eval()
    enliven(model)
    ours = SEANetCodec(config).fuse().eval()
    keymap = encodec((3, 2), config.residual_layers, weight_norm=values["norm"] == "weight_norm")
    ours.load_state_dict(keymap.read(model.state_dict()))
    return model, ours


@pytest.mark.parametrize(
    "changes",
    [
        {"causal": False},
        {"causal": False, "norm": "group", "channels": 2, "normalize": True},
        {"trim_right": 0.5},
        {"pad": "constant"},
        {"residual_layers": 2},
        {"shortcut": False},
    ],
    ids=lambda changes: "-".join(changes),
)
@torch.no_grad()
def test_every_variant_of_the_architecture_equals_transformers_encodec(changes):
    torch.manual_seed(0)
    theirs, ours = small(**changes)
    for length in (1, 4, 60, 121):
        audio = torch.randn(2, ours.config.channels, length, generator=torch.Generator().manual_seed(length)) * 0.3
        expected = theirs.encode(audio, bandwidth=192.0)
        samples = theirs.decode(expected.audio_codes, expected.audio_scales).audio_values
        tokens = ours.encode(audio)
        assert torch.equal(tokens.codes, expected.audio_codes[0])
        assert (ours.decode(tokens) - samples[..., :length]).abs().max() < 1e-4
