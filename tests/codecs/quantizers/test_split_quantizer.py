"""Semantic and acoustic codebooks look at the same latents, and add up."""

import pytest
import torch
from torch import nn
from transformers import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiSplitResidualVectorQuantizer

from zoo.codecs.quantizers import SplitResidualVectorQuantizer, residual_vq

DIM, INNER, SIZE, ACOUSTIC = 12, 8, 32, 5


def split(semantic: int = 1, **options) -> SplitResidualVectorQuantizer:
    torch.manual_seed(0)
    parts = residual_vq(INNER, SIZE, semantic, seed=1), residual_vq(INNER, SIZE, ACOUSTIC, seed=2, **options)
    return SplitResidualVectorQuantizer(*parts, DIM)


def latents(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, DIM, 20, generator=torch.Generator().manual_seed(7))


def mimi(semantic: int) -> MimiSplitResidualVectorQuantizer:
    """That of transformers with random weights; codewords are stored as sums and counts."""
    config = MimiConfig(
        hidden_size=DIM,
        vector_quantization_hidden_dimension=INNER,
        codebook_dim=INNER,
        codebook_size=SIZE,
        num_quantizers=semantic + ACOUSTIC,
        num_semantic_quantizers=semantic,
    )
    theirs, source = MimiSplitResidualVectorQuantizer(config), torch.Generator().manual_seed(5)
    for name, value in [*theirs.named_buffers(), *theirs.named_parameters()]:
        if name.endswith("cluster_usage"):
            value.data = 0.5 + 3 * torch.rand(value.shape, generator=source)
        elif name.endswith(("embed_sum", "weight")):
            value.data = torch.randn(value.shape, generator=source)
    return theirs


def copy_weights(theirs: MimiSplitResidualVectorQuantizer, ours: SplitResidualVectorQuantizer) -> None:
    pairs = [
        (theirs.semantic_residual_vector_quantizer, ours.semantic),
        (theirs.acoustic_residual_vector_quantizer, ours.acoustic),
    ]
    for source, target in pairs:
        target.project_in.weight.data = source.input_proj.weight.data[:, :, 0]
        target.project_out.weight.data = source.output_proj.weight.data[:, :, 0]
        for layer, level in zip(source.layers, target.inner.levels, strict=True):
            level.start_from(layer.codebook.embed, layer.codebook.cluster_usage)


@pytest.mark.parametrize("semantic", [1, 2])
@torch.no_grad()
def test_codes_and_latents_are_those_of_mimi_on_the_same_weights(semantic):
    theirs, ours, z = mimi(semantic), split(semantic).eval(), latents()
    copy_weights(theirs, ours)
    for n in range(semantic, semantic + ACOUSTIC + 1):
        codes = theirs.encode(z, n).transpose(0, 1)
        assert torch.equal(ours.encode(z, n), codes)
        torch.testing.assert_close(ours.decode(codes), theirs.decode(codes), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(z, n).z_q, theirs.decode(codes), atol=1e-5, rtol=1e-5)


def test_acoustic_codes_do_not_depend_on_the_semantic_codebook():
    quantizer, z = split(), latents()
    before = quantizer.encode(z)
    nn.init.normal_(quantizer.semantic.project_in.weight)
    after = quantizer.encode(z)
    assert torch.equal(after[:, 1:], before[:, 1:]) and not torch.equal(after[:, 0], before[:, 0])


def test_the_sum_is_that_of_its_two_parts():
    quantizer, z = split(), latents()
    codes = quantizer.encode(z)
    parts = quantizer.semantic.decode(codes[:, :1]) + quantizer.acoustic.decode(codes[:, 1:])
    torch.testing.assert_close(quantizer.decode(codes), parts)


@pytest.mark.parametrize(("n", "acoustic"), [(6, 5), (3, 2), (1, 0)])
def test_loss_is_the_mean_over_the_codebooks_in_use(n, acoustic):
    quantizer, z = split().eval(), latents()
    output = quantizer(z, n)
    torch.testing.assert_close(output.loss, output.usage.commitment[: 1 + acoustic].mean())


def test_dropout_of_the_acoustic_stack_never_drops_the_semantic_codebook():
    quantizer = split(dropout=1.0).train()
    used = (quantizer(latents(batch=64)).codes >= 0).all(dim=2)
    assert used[:, 0].all()
    assert set(used.sum(dim=1).tolist()) == {2, 3, 4, 5, 6}  # 64 rows, 5 depths: one is missed once in a million
