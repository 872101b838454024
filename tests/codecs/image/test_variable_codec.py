import torch

from zoo.codecs.image.variable import VariableCodec, VariableConfig, cosine_basis

SMALL = VariableConfig(
    widths=(8, 8, 8), blocks_down=(1, 1), blocks=1, blocks_up=(1, 1), latent=12,
    codebooks=3, codebook_size=16, kmeans_vectors=0,
)  # fmt: skip


def test_the_basis_is_orthonormal_and_holds_grey_before_colour():
    basis, _ = cosine_basis(96, 16)
    assert torch.allclose(basis.flatten(1) @ basis.flatten(1).T, torch.eye(96), atol=1e-5)
    assert torch.allclose(basis[0], torch.full((3, 16, 16), 1 / 768**0.5), atol=1e-6)
    grey = basis.sum(1).square().sum((1, 2)) > 1e-6
    assert 2 * (~grey).sum() < grey.sum() < 96


def test_all_components_together_are_the_picture():
    basis = cosine_basis(3 * 8 * 8, 8)[0].flatten(1)
    picture = torch.rand(3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(basis.T @ (basis @ picture), picture, atol=1e-5)


def test_a_fresh_codec_is_near_its_transform():
    torch.manual_seed(0)
    codec = VariableCodec(SMALL).eval()
    smooth = torch.linspace(0.2, 0.8, 32).expand(1, 3, 32, 32)
    with torch.no_grad():
        assert (codec(smooth, quantize=False).media - smooth).abs().mean() < 0.1


def test_default_shape_fits_the_size_of_a_starter():
    codec = VariableCodec(VariableConfig())
    stored = sum(tensor.numel() for tensor in codec.state_dict().values())
    assert stored * 2 < 25e6
    assert codec.info.bpp(1) == 10 / 256
