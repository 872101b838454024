"""Training refines what codes decode to, and never which code a vector has."""

import pytest
import torch

from zoo.codecs.quantizers import CascadedVectorQuantizer, ResidualVectorQuantizer

DIM, SIZE = 6, 16


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, DIM, 50, generator=torch.Generator().manual_seed(seed))


def steps(quantizer, z: torch.Tensor, loss, count: int = 50, **options) -> None:
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0, **options)
    for _ in range(count):
        optimizer.zero_grad()
        loss(quantizer(z)).backward()
        optimizer.step()


def test_codes_stay_while_codewords_learn():
    quantizer, z = CascadedVectorQuantizer(DIM, SIZE).train(), latents()
    codes, anchors = quantizer.encode(z), quantizer.frozen.clone()
    before = quantizer(z).usage.commitment.item()
    steps(quantizer, z, lambda output: output.loss)
    assert torch.equal(quantizer.encode(z), codes) and torch.equal(quantizer.frozen, anchors)
    assert quantizer(z).usage.commitment.item() < 0.8 * before


def test_codewords_learn_the_task_from_the_decoders_gradient():
    quantizer, z = CascadedVectorQuantizer(DIM, SIZE).train(), latents()
    target = latents(1)
    steps(quantizer, z, lambda output: 30 * (output.z_q - target).square().mean(), count=100)
    codes, wanted = quantizer.encode(z)[:, 0], target.movedim(1, -1)
    for code in codes.unique():  # the best one word can say is the mean of what its vectors want
        mean = wanted[codes == code].mean(dim=0)
        torch.testing.assert_close(quantizer.decode(code.view(1, 1, 1)).flatten(), mean, atol=0.01, rtol=0)


def test_fresh_codewords_are_their_anchors_and_weight_decay_brings_them_back():
    quantizer, z = CascadedVectorQuantizer(DIM, SIZE).train(), latents()
    every = torch.arange(SIZE)[None, None]
    assert torch.equal(quantizer.decode(every)[0].T, quantizer.frozen)
    steps(quantizer, z, lambda output: output.loss)
    assert (quantizer.decode(every)[0].T - quantizer.frozen).abs().max() > 0.1
    steps(quantizer, z, lambda output: 0 * output.loss, weight_decay=0.5)
    torch.testing.assert_close(quantizer.decode(every)[0].T, quantizer.frozen)


def test_the_latents_get_the_decoders_gradient_straight_through():
    quantizer, z = CascadedVectorQuantizer(DIM, SIZE), latents().requires_grad_()
    weights = latents(2)
    (quantizer(z).z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_given_clusters_are_the_frozen_table():
    clusters = torch.randn(SIZE, DIM)
    quantizer = CascadedVectorQuantizer(DIM, SIZE)
    quantizer.start_from(clusters)
    assert quantizer.encode(clusters.T[None]).flatten().tolist() == list(range(SIZE))
    torch.testing.assert_close(quantizer(clusters.T[None]).z_q[0].T, clusters)


def test_kmeans_clusters_the_first_vectors_alone_or_level_by_level():
    z = latents()
    alone = CascadedVectorQuantizer(DIM, SIZE, kmeans_vectors=150).train()
    assert (alone(z[:, :, :25]).codes == -1).all()
    assert (alone(z).codes >= 0).all()
    assert (alone.decode(alone.encode(z)) - z).square().mean() < 0.6 * z.square().mean()
    levels = [CascadedVectorQuantizer(DIM, SIZE) for _ in range(2)]
    stack = ResidualVectorQuantizer(levels, kmeans_vectors=100).train()
    stack(z)
    errors = [(stack.decode(stack.encode(z, n)) - z).square().mean() for n in (1, 2)]
    assert z.square().mean() > 1.5 * errors[0] > 1.5**2 * errors[1]


def test_too_few_vectors_for_kmeans_are_refused():
    with pytest.raises(ValueError, match="at least the 16 codes, got 10"):
        CascadedVectorQuantizer(DIM, SIZE, kmeans_vectors=10)
