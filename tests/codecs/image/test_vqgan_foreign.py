"""VQGANs that other libraries saved: same file, same codes, same pixels."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import VQModel
from small_image_codecs import pictures
from torch.nn.functional import normalize
from transformers import ChameleonVQVAEConfig, JanusVQVAEConfig
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE
from transformers.models.janus.modeling_janus import JanusVQVAE

import zoo
from zoo.checkpoints.keymaps import DIFFUSERS, JANUS, KEYMAPS, LLAMAGEN, VAR, vqgan
from zoo.codecs.errors import UserError
from zoo.codecs.image.multi_scale import MultiScaleVQVAE
from zoo.codecs.image.vqgan import VQGAN, VQGANConfig
from zoo.convert import convert

NORMAL, ATTENTION = ("DownEncoderBlock2D", "UpDecoderBlock2D"), ("AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D")
VARIANTS = {
    "attention in one stage": dict(block_out_channels=(8, 16, 16), attention=(False, False, True), vq_embed_dim=5),
    "attention in two stages": dict(block_out_channels=(12, 12, 24), attention=(False, True, True)),
    "no attention": dict(block_out_channels=(8, 8), attention=(False, False), mid_block_add_attention=False),
}


def enliven(model: torch.nn.Module) -> None:
    """Random biases and norms, large kernels: an output that hardly depends on the input would prove little."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            else:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)


@pytest.fixture(params=VARIANTS)
def diffusers(request, tmp_path):
    """A small VQModel with random weights and the folder that it was saved in."""
    torch.manual_seed(0)
    shape = dict(VARIANTS[request.param])
    kinds = [ATTENTION if on else NORMAL for on in shape.pop("attention")]
    model = VQModel(
        down_block_types=tuple(down for down, _ in kinds), up_block_types=tuple(up for _, up in reversed(kinds)),
        layers_per_block=2, latent_channels=6, num_vq_embeddings=64, norm_num_groups=4, **shape,
    ).eval()  # fmt: skip
    enliven(model)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


@pytest.fixture
def janus(tmp_path):
    """A small JanusVQVAE, whose codewords have length 1 so that its encoder agrees with its decoder on them."""
    torch.manual_seed(0)
    model = JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=32, channel_multiplier=[1, 2], num_res_blocks=1, latent_channels=6, embed_dim=4,
            num_embeddings=64, num_patches=8,
        )
    ).eval()  # fmt: skip
    enliven(model)
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(normalize(model.quantize.embedding.weight))
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


@torch.no_grad()
def test_a_vqmodel_of_diffusers_gives_the_same_codes_and_pixels(diffusers, tmp_path):
    model, folder = diffusers
    facts = convert(folder, tmp_path / "ours")
    codec = zoo.load(tmp_path / "ours")
    assert codec.weights == facts["sha256"]
    media = pictures(2, 48, 32)
    latents = model.encode(2 * media - 1).latents
    expected = model.quantize(latents)[2][2].view(2, 1, *latents.shape[2:])
    tokens = codec.encode(media)
    assert torch.equal(tokens.codes, expected)
    assert len(tokens.codes.unique()) > 10
    pixels = (model.decode(latents).sample + 1) / 2
    with torch.no_grad():
        torch.testing.assert_close(codec(media).media, pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(tokens), pixels.clamp(0, 1), atol=1e-4, rtol=0)
    assert pixels.std() > 0.05


@torch.no_grad()
def test_a_vqvae_of_janus_gives_the_same_codes_and_pixels(janus, tmp_path):
    model, folder = janus
    convert(folder, tmp_path / "ours")
    codec = zoo.load(tmp_path / "ours")
    media = pictures(2, 16, 16)
    expected = model.encode(2 * media - 1).image_tokens.view(2, 1, 8, 8)
    tokens = codec.encode(media)
    assert torch.equal(tokens.codes, expected)
    assert len(tokens.codes.unique()) > 10
    pixels = (model.decode(expected.flatten(1)) + 1) / 2
    torch.testing.assert_close(codec.decode(tokens), pixels.clamp(0, 1), atol=1e-4, rtol=0)
    assert pixels.std() > 0.05


@torch.no_grad()
def test_the_encoder_of_chameleon_gives_the_same_codes():
    # transformers has no decoder for it, so there is no whole codec to convert: the tensors that are there must fit.
    torch.manual_seed(0)
    config = ChameleonVQVAEConfig(
        base_channels=32, channel_multiplier=[1, 1, 2], num_res_blocks=2, attn_resolutions=[16], resolution=32,
        latent_channels=6, embed_dim=4, num_embeddings=64,
    )  # fmt: skip
    model = ChameleonVQVAE(config).eval()
    enliven(model)
    codec = VQGAN(
        VQGANConfig(
            width=32, multipliers=(1, 1, 2), attention=(2,), latent=6, code_dim=4, codebook="learned", codebook_size=64
        )
    ).eval()
    missing = codec.load_state_dict(vqgan(levels=3).read(model.state_dict()), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("decoder.") for name in missing.missing_keys)
    media = pictures(2, 32, 24)
    tokens = codec.encode(media)
    assert torch.equal(tokens.codes, model.encode(2 * media - 1).image_tokens.view(2, 1, 8, 6))
    assert len(tokens.codes.unique()) > 10


def test_their_model_takes_what_is_written_and_both_hold_the_same_names(diffusers, tmp_path):
    model, folder = diffusers
    convert(folder, tmp_path / "ours")
    codec = zoo.load(tmp_path / "ours")
    keymap = vqgan(len(codec.config.multipliers), DIFFUSERS)
    written = keymap.write(codec.state_dict())
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in written.items())


@pytest.mark.parametrize("names", [JANUS, LLAMAGEN, DIFFUSERS, VAR])
def test_ours_to_theirs_and_back_is_the_identity(names):
    codec = VQGAN(VQGANConfig(width=8, multipliers=(1, 2, 2), attention=(2, 4), groups=4, codebook_size=16))
    keymap, ours = vqgan(3, names), codec.state_dict()
    written = keymap.write(ours)
    back = keymap.read(written)
    assert written.keys() != ours.keys() and ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)


@pytest.mark.parametrize(
    ("codec", "keymap", "tensors", "millions", "example"),
    [
        (
            lambda: VQGAN(VQGANConfig.llamagen_f16()),
            "llamagen-f16",
            343,
            71.88,
            "decoder.conv_blocks.0.attn.2.proj_out.weight",
        ),
        (
            lambda: VQGAN(VQGANConfig.llamagen_f8()),
            "llamagen-f8",
            299,
            70.11,
            "encoder.conv_blocks.1.res.0.nin_shortcut.weight",
        ),
        (lambda: VQGAN(VQGANConfig.taming_f16()), "taming-f16", 343, 72.14, "decoder.up.4.block.2.conv1.weight"),
        (MultiScaleVQVAE, "var-vqvae", 324, 108.95, "encoder.mid.attn_1.qkv.weight"),
    ],
)
def test_the_published_architectures_have_their_published_names_and_sizes(codec, keymap, tensors, millions, example):
    codec = codec()
    written = KEYMAPS[keymap].write(codec.state_dict())
    assert len(written) == tensors
    assert codec.info.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert example in written and "quantize.embedding.weight" in written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn must be one of 'silu', got \"relu\""),
        ({"norm_type": "spatial"}, "norm_type must be one of 'group'"),
        ({"in_channels": 1}, "in_channels must be one of 3, got 1"),
        ({"down_block_types": ["ResnetDownsampleBlock2D"]}, "down_block_types"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types must mirror down_block_types"),
        ({"block_out_channels": [8, 12]}, "block_out_channels must be a multiple of the first"),
        ({"block_out_channels": "wide"}, "block_out_channels must be"),
        ({"layers_per_block": 0}, "blocks be 1 or more"),
        ({"num_vq_embeddings": 65}, "tensors do not fit the configuration"),
        ({"_class_name": "AutoencoderKL"}, "_class_name must be 'encodec', 'janus_vqgan', 'VQModel'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_has_no_counterpart_here_is_refused(diffusers, tmp_path, change, message):
    _, folder = diffusers
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
