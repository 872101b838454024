"""Plain and residual vector quantization on codebooks of vector-quantize-pytorch."""

import pytest
import torch
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

from zoo.codecs.quantizers import VectorQuantizer, residual_vq


def codebook(layer: VectorQuantize) -> torch.Tensor:
    return layer._codebook.embed[0]


@pytest.mark.parametrize("size", [16, 1024])
def test_plain_codes_and_latents_are_equal(size):
    torch.manual_seed(0)
    theirs = VectorQuantize(dim=12, codebook_size=size, kmeans_init=True)
    z = torch.randn(3, 500, 12)
    theirs.train()(z)  # its codebook starts by k-means, and learns once
    ours = VectorQuantizer(12, size).eval()
    ours.start_from(codebook(theirs), torch.ones(size))
    expected, codes, _ = theirs.eval()(z)
    output = ours(z.movedim(2, 1))
    assert torch.equal(output.codes[:, 0], codes) and codes.unique().numel() > size / 2
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected)


def test_residual_codes_latents_and_losses_are_equal():
    torch.manual_seed(0)
    theirs = ResidualVQ(dim=12, num_quantizers=4, codebook_size=256, kmeans_init=True, rotation_trick=False)
    z = torch.randn(3, 500, 12)
    theirs.train()(z)
    ours = residual_vq(12, 256, levels=4, restart_threshold=0.0).eval()
    for level, layer in zip(ours.levels, theirs.layers, strict=True):
        level.start_from(codebook(layer), torch.ones(256))
    expected, codes, _ = theirs.eval()(z)
    output = ours(z.movedim(2, 1))
    assert torch.equal(output.codes.movedim(1, 2), codes)
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected, atol=1e-5, rtol=1e-4)
    _, _, losses = theirs.train()(z.requires_grad_())
    torch.testing.assert_close(output.loss, losses.mean())
