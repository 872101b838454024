"""The start of codebooks by k-means on the first training vectors."""

import copy

import pytest
import torch

from zoo.codecs.quantizers import FactorizedVectorQuantizer, ResidualVectorQuantizer, VectorQuantizer, residual_vq
from zoo.codecs.quantizers.draws import generator
from zoo.codecs.quantizers.kmeans import first_minimum, kmeans, nearest


def test_kmeans_finds_separated_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=generator(1, 0))
    found, shares = kmeans(x, 3, generator(0, 0))
    assert sorted(nearest(centres, found).tolist()) == [0, 1, 2]
    assert (found[nearest(centres, found)] - centres).abs().max() < 0.1
    assert shares.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_run_empty_find_vectors_elsewhere(seed):
    """Six points, 10 vectors on each: random starts all but surely (98 %) put two centres on one point."""
    found, shares = kmeans(torch.eye(6).repeat(10, 1), 6, generator(seed, 0))
    assert shares.tolist() == pytest.approx([1 / 6] * 6)
    assert found.sort(dim=0).values[-1].tolist() == [1] * 6


def test_kmeans_gives_finite_codewords_for_silence():
    found, shares = kmeans(torch.zeros(100, 4), 16, generator(0, 0))
    assert found.abs().max() == 0 and shares.sum() == 1


def test_forward_leaves_latents_alone_while_it_gathers_and_fits_once_there_are_enough():
    quantizer = residual_vq(4, 16, levels=2, kmeans_vectors=100).train()
    z = torch.randn(2, 4, 30)  # 60 vectors a forward
    first = quantizer(z)
    assert torch.equal(first.z_q, z) and (first.codes == -1).all() and first.loss == 0
    second = quantizer(z)
    assert (second.codes >= 0).all() and (second.z_q - z).square().mean() < 0.5 * z.square().mean()
    assert quantizer.start.gathered.shape == (0, 4)


def test_a_large_first_batch_is_quantized_in_the_same_forward():
    z = torch.randn(1, 4, 64)
    assert (VectorQuantizer(4, 16, kmeans_vectors=64).train()(z).codes >= 0).all()
    assert (VectorQuantizer(4, 16, kmeans_vectors=64).train()(z[..., 1:]).codes == -1).all()


def test_each_level_starts_on_what_the_levels_before_left_over():
    """On one batch, k-means on residuals must gain on every level; random codewords of norm 1 would not."""
    quantizer = residual_vq(8, 64, levels=4, kmeans_vectors=2000).train()
    z = torch.randn(1, 8, 2000, generator=generator(0, 0))
    quantizer(z)
    errors = [
        z.square().mean(),
        *((quantizer.decode(quantizer.encode(z, n)) - z).square().mean() for n in (1, 2, 3, 4)),
    ]
    # 64 codes on 8 dimensions are .75 bits a dimension: at least a third less error a level.
    assert all(after < 0.67 * before for before, after in zip(errors, errors[1:], strict=False))


def test_eval_before_the_start_neither_gathers_nor_skips_quantizing():
    quantizer = residual_vq(4, 16, levels=2, kmeans_vectors=100).eval()
    assert (quantizer(torch.randn(2, 4, 300)).codes >= 0).all()
    assert len(quantizer.start.gathered) == 0 and not quantizer.start.fitted


def test_training_stopped_while_gathering_resumes_identically():
    batches = torch.randn(6, 2, 4, 30, generator=generator(3, 0))
    whole = residual_vq(4, 16, levels=2, kmeans_vectors=150).train()
    half = copy.deepcopy(whole)
    for z in batches:
        whole(z)
    half(batches[0])
    resumed = residual_vq(4, 16, levels=2, kmeans_vectors=150).train()
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for z in batches[1:]:
        resumed(z)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_levels_with_a_start_of_their_own_are_refused():
    with pytest.raises(ValueError, match="give kmeans_vectors to it, not to them"):
        ResidualVectorQuantizer([VectorQuantizer(4, 8, kmeans_vectors=8)])


def test_kmeans_of_gradient_trained_codebooks_is_refused():
    with pytest.raises(ValueError, match="learns by gradients"):
        ResidualVectorQuantizer([FactorizedVectorQuantizer(16, 8)], kmeans_vectors=8)


@pytest.mark.parametrize("columns", [1, 64, 100, 256, 1024])
def test_first_minimum_is_the_lowest_index_of_the_least_value(columns):
    x = torch.randint(8, (300, columns), generator=generator(0, 0)).float()  # few values: ties in every row
    expected = [row.index(min(row)) for row in x.tolist()]
    assert first_minimum(x).tolist() == expected


def test_no_vector_has_no_nearest_codeword_even_among_many():
    assert nearest(torch.zeros(0, 4), torch.randn(1024, 4)).shape == (0,)
