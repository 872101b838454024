"""Codes and pixels that the authors' own code gave for the same weights, and the sizes of the published models.

`originals.json` holds, for each case, what the authors' modules made of `picture()` with the weights of `draw_weights`,
renamed: TencentARC/SEED-Voken (MAGVIT2, IBQ), NVIDIA/Cosmos-Tokenizer, bytedance/1d-tokenizer (TiTok),
thuanz123/enhancing-transformers (ViT-VQGAN), FoundationVision/LlamaGen (VQGAN) and FoundationVision/VAR, on a CPU in
float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_image_codecs import pictures

import zoo
from zoo.codecs.base import Tokens
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.cosmos import Cosmos, CosmosConfig
from zoo.codecs.image.ibq import IBQ
from zoo.codecs.image.magvit2 import MAGVIT2, MAGVIT2Config
from zoo.codecs.image.titok import TiTok, TiTokConfig
from zoo.codecs.image.vit_vqgan import ViTVQGAN, ViTVQGANConfig
from zoo.codecs.layers.transformer import BASE, LARGE, SMALL

CASES = json.loads(Path(__file__).with_name("originals.json").read_text())


def draw_weights(codec: ImageCodec) -> None:
    """Weights that depend on their names and shapes alone, and let a picture matter through all layers."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(codec.named_parameters()):
            values = torch.randn(parameter.shape, generator=source)
            if parameter.ndim > 1 and "embedding" not in name and "token" not in name:
                values *= 1.5 * parameter[0].numel() ** -0.5
            elif parameter.ndim == 1:
                values *= 0.1
            if name == "to_patch.weight":
                values = 8 * (values - values.mean(dim=(1, 2, 3), keepdim=True))  # brightness outweighs all else
            parameter.copy_(1 + values if parameter.ndim == 1 and name.endswith("weight") else values)


def picture() -> torch.Tensor:
    """What was tokenized."""
    return pictures(1, 64, 64)


@pytest.mark.parametrize("name", CASES)
def test_codes_and_pixels_are_those_of_the_original(name):
    case = CASES[name]
    codec = zoo.create(case["architecture"], **case["config"]).eval()
    draw_weights(codec)
    codes = torch.tensor(case["codes"])
    assert len(codes.unique()) >= 8
    found = codec.encode(picture()).codes
    torch.testing.assert_close(found.flatten(), codes)
    with torch.no_grad():
        pixels = codec.synthesise(codec.quantizer.decode(found))
    torch.testing.assert_close(pixels[0, :, ::9, ::9].flatten(), torch.tensor(case["pixels"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "config", "parameters"),
    [
        (MAGVIT2, None, 115127829),
        (MAGVIT2, MAGVIT2Config.f8(), 112021653),
        (IBQ, None, 110982019),
        (Cosmos, None, 79004342),
        (Cosmos, CosmosConfig(compression=16), 83723958),
        (TiTok, None, 390016148),
        (TiTok, TiTokConfig.paper(LARGE, 32), 641054735),
        (TiTok, TiTokConfig.paper(BASE, 64), 204814095),
        (TiTok, TiTokConfig.paper(SMALL, 128), 83674639),
        (ViTVQGAN, ViTVQGANConfig.small(), 50908195),
        (ViTVQGAN, None, 170664483),
        (ViTVQGAN, ViTVQGANConfig.large(), 613487907),
    ],
)
def test_the_published_models_have_as_many_parameters(kind, config, parameters):
    with torch.device("meta"):
        assert kind(config).info.parameters == parameters


def test_every_code_of_titok_stands_for_the_whole_picture():
    codec = zoo.create("titok", **CASES["titok pixels"]["config"]).eval()
    draw_weights(codec)
    tokens = codec.encode(picture())
    other = tokens.codes.clone()
    other[0, 0, 0] = (other[0, 0, 0] + 1) % codec.info.codebook_sizes[0]
    changed = codec.decode(tokens) - codec.decode(Tokens(other, tokens.lengths))
    patches = changed[0].unflatten(1, (4, 16)).unflatten(3, (4, 16)).abs().amax(dim=(0, 2, 4))
    assert (patches > 1e-4).all()


def test_vit_vqgan_tells_places_apart_in_pictures_of_any_size():
    codec = zoo.create("vit-vqgan", **CASES["vit-vqgan"]["config"]).eval()
    draw_weights(codec)
    with torch.no_grad():
        for height, width in ((8, 8), (16, 40), (64, 24)):
            cells = codec.latents(torch.full((1, 3, height, width), 0.5)).flatten(2)[0].T
            distances = torch.cdist(cells, cells) + torch.eye(len(cells))
            assert distances.min() > 1e-3


def test_a_titok_whose_patches_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="tile must be a multiple of patch, got 256 and 24"):
        TiTokConfig(patch=24)
    with pytest.raises(ValueError, match="cells have 16 pixels a side, a patch has 32"):
        TiTokConfig(patch=32, head="codes")


def test_a_cosmos_that_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="code_dim must be the number of levels, 2"):
        CosmosConfig(levels=(8, 8))
    with pytest.raises(ValueError, match="powers of two, got 3 and 8"):
        CosmosConfig(patch=3)
    with pytest.raises(ValueError, match="compression may be 4 to 32"):
        CosmosConfig(compression=64)
    with pytest.raises(ValueError, match="compression may be 4 to 32"):
        CosmosConfig(compression=2)


def test_a_magvit2_that_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="must be a multiple of groups 32"):
        MAGVIT2Config(width=48)
    with pytest.raises(ValueError, match="blocks be 1 or more"):
        MAGVIT2Config(blocks=0)
