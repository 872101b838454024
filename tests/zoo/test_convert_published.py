"""Tokenizers in files as their authors published them become directories that `zoo.load` takes."""

import pytest
import torch
from small_image_codecs import pictures

import zoo
from zoo.checkpoints.keymaps import llamagen, var_vqvae
from zoo.codecs.errors import UserError
from zoo.codecs.image.multi_scale import MultiScaleConfig, MultiScaleVQVAE
from zoo.codecs.image.vqgan import VQGAN, VQGANConfig
from zoo.convert import convert

SMALL = dict(width=32, multipliers=(1, 1, 2), blocks=1, latent=12, code_dim=6, codebook_size=64)


def drawn(codec):
    """Random biases and norms, large kernels: an output that hardly depends on the input would prove little."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in codec.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            else:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
    return codec.eval()


@pytest.fixture(params=[(4,), (1, 4), ()], ids=["coarse attention", "more attention", "no attention"])
def theirs_of_llamagen(request):
    """A small VQGAN and its tensors as LlamaGen names them, with a record of the codes that training used."""
    codec = drawn(VQGAN(VQGANConfig(**SMALL, attention=request.param, middle_attention=bool(request.param))))
    return codec, llamagen(3).write(codec.state_dict()) | {"quantize.codebook_used": torch.zeros(65536)}


@pytest.fixture
def var():
    """A small tokenizer of VAR's ten scales and its tensors as published."""
    codec = drawn(MultiScaleVQVAE(MultiScaleConfig(**SMALL, attention=(4,), phis=3)))
    return codec, var_vqvae(3, scales=10).write(codec.state_dict())


def assert_same(codec, folder, media):
    """The directory holds that codec: configuration, codes and pixels."""
    read = zoo.load(folder)
    assert read.config == codec.config
    tokens = read.encode(media)
    assert torch.equal(tokens.codes, codec.encode(media).codes)
    assert len(tokens.codes.unique()) > 10
    assert torch.equal(read.decode(tokens), codec.decode(tokens))


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"model": t, "steps": 7}], ids=["bare", "wrapped"])
def test_a_file_of_llamagen_says_by_its_shapes_what_it_is(theirs_of_llamagen, tmp_path, wrap):
    codec, tensors = theirs_of_llamagen
    torch.save(wrap(tensors), tmp_path / "vq.pt")
    facts = convert(tmp_path / "vq.pt", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(2, 24, 32))
    assert zoo.load(tmp_path / "ours").weights == facts["sha256"]


def test_averaged_weights_are_preferred(theirs_of_llamagen, tmp_path):
    codec, tensors = theirs_of_llamagen
    torch.save({"model": {name: 0 * tensor for name, tensor in tensors.items()}, "ema": tensors}, tmp_path / "vq.pt")
    convert(tmp_path / "vq.pt", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(1, 24, 32))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_var_is_read_in_either_format_of_pytorch(var, tmp_path, zipped):
    codec, tensors = var
    torch.save(tensors, tmp_path / "vae.pth", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "vae.pth", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(1, 64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize.ema_vocab_hit_SV": torch.zeros(3, 64)}, "has 3 scales of unknown size; only VAR's 10"),
        ({"quantize.embedding.weight": None}, "has no tensor 'quantize.embedding.weight' of 2 axes; is the file whole"),
        ({"quant_conv.weight": torch.zeros(6)}, "has no tensor 'quant_conv.weight' of 4 axes"),
        ({"decoder.norm_out.bias": None}, "tensors are missing: decoder.norm_out.bias"),
        ({"decoder.conv_in.weight": torch.zeros(64, 13, 3, 3)}, r"conv_in.weight has shape \[64, 13, 3, 3\], expected"),
        ({"stranger.weight": torch.zeros(1)}, "no rule for tensor 'stranger.weight'"),
        ({"encoder.conv_in.weight": torch.zeros(40, 3, 3, 3)}, "must be a multiple of groups 32"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_damaged_file_is_refused(var, tmp_path, change, message):
    _, tensors = var
    tensors = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "vae.pth")
    with pytest.raises(UserError, match=f"vae.pth: .*{message}"):
        convert(tmp_path / "vae.pth", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Stranger:
    """What only unpickling with code of its own brings back."""


@pytest.mark.parametrize("saved", [{"model": Stranger()}, {"a.weight": torch.zeros(2)}, [1, 2]])
def test_a_file_of_something_else_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: not a checkpoint"):
        convert(tmp_path / "other.pt", tmp_path / "ours")
