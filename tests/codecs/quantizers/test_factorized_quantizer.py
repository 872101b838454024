"""The gradient-trained codebook between two projections: how it searches, and what trains what."""

import pytest
import torch
from torch import nn

from zoo.codecs.quantizers import FactorizedVectorQuantizer


def plain(codewords: list[list[float]], **options) -> FactorizedVectorQuantizer:
    """A quantizer with these codewords and projections that change nothing."""
    table = torch.tensor(codewords)
    quantizer = FactorizedVectorQuantizer(table.shape[1], len(table), code_dim=table.shape[1], **options)
    quantizer.embedding = nn.Parameter(table)
    for layer in (quantizer.project_in, quantizer.project_out):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return quantizer


def test_the_nearest_code_is_the_one_of_the_same_direction():
    quantizer = plain([[0.1, 0.0], [9.0, 5.0]])
    assert quantizer.encode(torch.tensor([[[9.0], [0.0]]])).item() == 0  # (9, 5) is nearer
    assert quantizer.decode(torch.tensor([[[1]]])).flatten().tolist() == [9, 5]  # codewords keep their length


def test_decoder_gradient_passes_both_projections_and_not_the_codebook():
    torch.manual_seed(0)
    quantizer = FactorizedVectorQuantizer(6, 16, code_dim=3)
    z, weights = torch.randn(2, 6, 5, requires_grad=True), torch.randn(2, 6, 5)
    (quantizer(z).z_q * weights).sum().backward()
    through = quantizer.project_out.weight @ quantizer.project_in.weight
    torch.testing.assert_close(z.grad, torch.einsum("oi,bot->bit", through, weights))
    assert quantizer.project_in.weight.grad.abs().sum() > 0
    assert quantizer.embedding.grad is None or quantizer.embedding.grad.abs().sum() == 0


def test_loss_is_the_weighted_sum_of_commitment_and_codebook_loss():
    quantizer = plain([[1.0, 0.0], [0.0, 1.0]], commitment_weight=0.25, codebook_weight=2.0)
    z = torch.tensor([[[4.0], [0.0]]], requires_grad=True)  # 3 beside its codeword (1, 0)
    output = quantizer(z)
    output.loss.backward()
    squared = 3**2 / 2  # mean over two dimensions
    assert output.usage.commitment.tolist() == [squared]
    assert output.loss.item() == pytest.approx((0.25 + 2.0) * squared)
    assert z.grad.flatten().tolist() == pytest.approx([0.25 * 3, 0])
    assert quantizer.embedding.grad.tolist() == [[pytest.approx(-2.0 * 3), 0], [0, 0]]


def test_usage_counts_the_codes_of_the_batch():
    usage = plain([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])(torch.tensor([[[1.0, 5.0], [0.0, -9.0]]])).usage
    assert usage.used.tolist() == [0.5] and usage.perplexity.tolist() == pytest.approx([2])
