"""Streaming, training and facts of the SEANet codec, on configurations of a few hundred weights."""

from __future__ import annotations

import copy

import pytest
import torch

from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig
from zoo.codecs.layers.residual import run

TINY = {"filters": 4, "dim": 16, "ratios": (2, 2), "codebooks": 3, "codebook_size": 16}  # hop 4
CAUSAL = {
    "encodec": {},
    "constant-padding": {"pad": "constant"},
    "no-lstm": {"lstm_layers": 0},
    "looks-ahead": {"trim_right": 0.5, "ratios": (3, 2)},
    "dilated-stereo": {"residual_layers": 3, "channels": 2, "shortcut": False},
    "normalized": {"normalize": True},
}
WHOLE = {
    "windows": {"causal": False, "lstm_layers": 0},
    "windows-constant": {"causal": False, "lstm_layers": 0, "pad": "constant", "ratios": (3, 2)},
    "recurrent": {"causal": False},
    "group-norm": {"causal": False, "norm": "group", "normalize": True, "channels": 2},
}


def build(**changes) -> SEANetCodec:
    """A tiny codec in eval mode whose codebooks lie among its latents, so that codes vary."""
    torch.manual_seed(0)
    codec = SEANetCodec(SEANetConfig(**TINY | changes)).eval()
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            parameter.mul_(1.0 if "lstm" in name else 1.5)
        z, _ = run(codec.encoder.layers, audio(400, codec.config.channels).transpose(1, 2), None, True)
        for index, level in enumerate(codec.quantizer.levels):
            level.embedding.mul_(z.std(dim=(0, 1)) * 0.7**index).add_(z.mean(dim=(0, 1)) * (index == 0))
    return codec


def audio(length: int, channels: int = 1, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(seed)) * 0.3


def chunks(total: int, sizes: list[int]) -> list[int]:
    """`sizes`, over and over, cut to add up to `total`."""
    taken = []
    while sum(taken) < total:
        taken.append(min(sizes[len(taken) % len(sizes)], total - sum(taken)))
    return taken


def encode_in_chunks(codec: SEANetCodec, media: torch.Tensor, scales, sizes: list[int]) -> torch.Tensor:
    state, parts = codec.init_encoder(scales), []
    for part in media.split(chunks(media.shape[-1], sizes), dim=-1):
        codes, state = codec.encode_chunk(part, state)
        parts.append(codes)
    codes, _ = codec.encode_chunk(media[..., :0], state, final=True)
    return torch.cat([*parts, codes], dim=-1)


def decode_in_chunks(codec: SEANetCodec, codes: torch.Tensor, scales, sizes: list[int]) -> torch.Tensor:
    state, parts = codec.init_decoder(scales), []
    *first, last = codes.split(chunks(codes.shape[-1], sizes), dim=-1)
    for part in first:
        media, state = codec.decode_chunk(part, state)
        parts.append(media)
    media, _ = codec.decode_chunk(last, state, final=True)
    return torch.cat([*parts, media], dim=-1)


RANDOM = torch.randint(0, 30, (8,), generator=torch.Generator().manual_seed(5)).tolist() + [1]


@pytest.mark.parametrize("sizes", [[1], [0, 1, 0, 5], RANDOM, [1000]], ids=["ones", "with-empty", "random", "whole"])
@pytest.mark.parametrize("changes", (CAUSAL | WHOLE).values(), ids=(CAUSAL | WHOLE).keys())
def test_any_chunking_gives_the_codes_and_samples_of_the_whole(changes, sizes):
    codec = build(**changes)
    for length in (1, 6, 37, 211):
        media = audio(length, codec.config.channels)
        tokens = codec.encode(media)
        frames = -(-length // codec.config.hop)
        assert tokens.codes.shape == (2, 3, frames)
        scales = tokens.scales
        assert torch.equal(encode_in_chunks(codec, media, scales, sizes), tokens.codes)
        streamed = decode_in_chunks(codec, tokens.codes, scales, sizes)
        assert streamed.shape[-1] == frames * codec.config.hop
        assert (streamed[..., :length] - codec.decode(tokens)).abs().max() < 1e-5


def test_a_causal_stream_gives_out_each_frame_as_soon_as_its_samples_are_there():
    codec = build(pad="constant")
    media, state = audio(40), codec.init_encoder()
    for frame in range(10):
        codes, state = codec.encode_chunk(media[..., 4 * frame : 4 * frame + 4], state)
        assert codes.shape[-1] == 1


def test_a_stream_state_can_be_used_twice():
    codec = build()
    media = audio(80)
    _, state = codec.encode_chunk(media[..., :50], codec.init_encoder())
    first, _ = codec.encode_chunk(media[..., 50:], state, final=True)
    again, _ = codec.encode_chunk(media[..., 50:], state, final=True)
    assert torch.equal(first, again)


def test_a_normalizing_stream_without_scales_says_what_it_needs():
    with pytest.raises(ValueError, match="scales"):
        build(normalize=True).init_encoder()


@pytest.mark.parametrize("name", ["encodec", "constant-padding", "no-lstm", "looks-ahead", "windows"])
def test_a_frame_depends_on_later_input_just_as_far_as_the_lookahead_says(name):
    codec = build(**(CAUSAL | WHOLE)[name])
    hop, lookahead = codec.config.hop, codec.info.lookahead
    reaches = []
    for frame in (0, 1, 12):
        media = audio(200, batch=1).requires_grad_()
        codec(media, quantize=False).media[..., frame * hop : (frame + 1) * hop].square().sum().backward()
        reaches.append(int(media.grad.nonzero()[:, -1].max()) + 1 - (frame + 1) * hop)
    assert max(reaches) == lookahead


def test_constant_padding_and_no_surplus_at_the_left_mean_no_lookahead():
    assert build(pad="constant").info.lookahead == 0
    assert build(norm="group", causal=False).info.lookahead is None


@pytest.mark.parametrize("changes", (CAUSAL | WHOLE).values(), ids=(CAUSAL | WHOLE).keys())
def test_gradients_reach_every_parameter(changes):
    codec = build(**changes).train()
    output = codec(audio(64, codec.config.channels))
    (output.media.square().sum() + output.loss).backward()
    assert output.media.shape[-1] == 64
    without = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_training_reconstructs_what_encode_and_decode_make():
    codec = build()
    media = audio(50)
    assert (codec(media).media - codec.decode(codec.encode(media))).abs().max() < 1e-5


@torch.no_grad()
def test_fusing_weight_norm_changes_no_output_and_leaves_plain_weights():
    codec = build()
    fused = copy.deepcopy(codec).fuse().fuse()
    media = audio(50)
    assert (codec(media).media - fused(media).media).abs().max() < 1e-6
    assert not [name for name in fused.state_dict() if name.endswith("gain")]
    again = build()  # the form for training takes fused weights, too
    again.load_state_dict(fused.state_dict())
    assert any(name.endswith("gain") for name in again.state_dict())
    assert (codec(media).media - again(media).media).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_full_precision(dtype):
    codec = build(causal=False, norm="group", channels=2)
    media = audio(64, 2)
    tokens = codec.encode(media)
    half = copy.deepcopy(codec).to(dtype)
    assert (half.encode(media.to(dtype)).codes == tokens.codes).float().mean() > 0.7
    full = codec.decode(tokens)
    assert (half.decode(tokens).float() - full).abs().max() < 0.05 * full.abs().max()


def test_autocast_trains():
    codec = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = codec(audio(64))
    full = build()(audio(64)).media
    assert (output.media.float() - full).abs().max() < 0.1 * full.abs().max()
    output.media.float().square().sum().backward()
    assert all(p.grad is not None for p in codec.parameters())


def test_info_of_the_24_khz_encodec_states_its_published_rates():
    info = SEANetCodec(SEANetConfig.encodec_24khz()).info
    assert (info.frame_rate, info.hop, info.codebooks, info.causal) == (75, 320, 32, True)
    assert [info.kbps(n) for n in (2, 4, 8, 16, 32)] == [1.5, 3, 6, 12, 24]
    assert info.parameters == 14_851_810  # published as 14.85 million trainable scalars


def test_the_48_khz_encodec_takes_stereo_and_gives_back_its_loudness():
    codec = SEANetCodec(SEANetConfig.encodec_48khz()).eval()
    assert codec.info.frame_rate == 150 and codec.info.kbps() == 24
    media = audio(4800, 2, batch=1)
    quiet, loud = codec.encode(media / 8), codec.encode(media)
    assert torch.equal(quiet.codes, loud.codes)
    assert torch.allclose(quiet.scales * 8, loud.scales)
    assert torch.allclose(codec.decode(quiet) * 8, codec.decode(loud), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{"norm": "group"}, {"causal": False, "trim_right": 0.5}])
def test_configurations_that_contradict_themselves_are_refused(changes):
    with pytest.raises(ValueError, match="causal"):
        SEANetConfig(**changes)


@torch.no_grad()
def test_working_in_blocks_changes_nothing(monkeypatch):
    codec = build()
    media = audio(500)
    whole = codec.encode(media)
    samples = codec.decode(whole)
    monkeypatch.setattr("zoo.codecs.audio.seanet.BLOCK", 4 * 2 * 16)  # blocks of 16 samples, for 4 filters and 2 rows
    assert torch.equal(codec.encode(media).codes, whole.codes)
    assert (codec.decode(whole) - samples).abs().max() < 1e-5
