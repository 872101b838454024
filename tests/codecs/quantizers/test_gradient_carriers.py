"""The rotation trick: values stay and gradients turn with the codeword, in every quantizer that offers it."""

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from zoo.bench_quantizers import copy_codewords
from zoo.codecs.quantizers import (
    FactorizedVectorQuantizer,
    ResidualVectorQuantizer,
    SimVectorQuantizer,
    VectorQuantizer,
    residual_vq,
)
from zoo.codecs.quantizers.rotation import carry


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The matrix that turns `x` into the direction of `q` in their plane, leaves what is across to it, and stretches.

    Built from an orthonormal basis of the plane and the angle, in float64: not by the reflections of the paper.
    """
    x, q = x.double(), q.double()
    first = x / x.norm()
    second = q - (q @ first) * first
    second = second / second.norm()
    angle = torch.atan2(q @ second, q @ first)
    plane = torch.stack([first, second], dim=1)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    matrix = torch.eye(len(x), dtype=torch.float64) - plane @ plane.T + plane @ turn @ plane.T
    return (matrix * q.norm() / x.norm()).float()


def rotated(x: torch.Tensor, q: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """What gradients of `q` are at `x`, vector by vector."""
    return torch.stack([rotation(a, b).T @ gradient for a, b, gradient in zip(x, q, gradients, strict=True)])


def by_cell(z: torch.Tensor) -> torch.Tensor:
    return z.detach().movedim(1, -1).reshape(-1, z.shape[1])


def test_the_reference_turns_vectors_onto_codewords():
    for x, q in zip(vectors(9, 5), vectors(9, 5, seed=1), strict=True):
        torch.testing.assert_close(rotation(x, q) @ x, q)


def test_the_gradient_is_that_of_the_rotation_matrix():
    x, q, gradients = vectors(40, 6).requires_grad_(), vectors(40, 6, seed=1), vectors(40, 6, seed=2)
    out = carry(x, q, "rotation")
    assert torch.equal(out, q)
    (out * gradients).sum().backward()
    torch.testing.assert_close(x.grad, rotated(x.detach(), q, gradients), atol=1e-5, rtol=1e-4)
    assert (x.grad - gradients).abs().max() > 1  # by far not straight through


def test_the_gradient_keeps_its_angle_to_the_codeword():
    x, q = vectors(40, 6).requires_grad_(), vectors(40, 6, seed=1)
    gradients = vectors(40, 6, seed=2)
    (carry(x, q, "rotation") * gradients).sum().backward()
    angles = torch.cosine_similarity(x.grad, x.detach()), torch.cosine_similarity(gradients, q)
    torch.testing.assert_close(*angles, atol=1e-5, rtol=1e-4)


def test_the_gradient_equals_vector_quantize_pytorch():
    x, q, gradients = vectors(40, 6).requires_grad_(), vectors(40, 6, seed=1), vectors(40, 6, seed=2)
    (ours,) = torch.autograd.grad((carry(x, q, "rotation") * gradients).sum(), x)
    (theirs,) = torch.autograd.grad((rotate_to(x, q) * gradients).sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["zero vector", "zero codeword", "opposite", "same"])
def test_the_gradient_is_finite_where_there_is_no_single_rotation(case):
    x = torch.tensor([[3.0, 4.0]]) * (case != "zero vector")
    q = x * {"opposite": -1, "same": 1}.get(case, 0) + (case == "zero vector")
    x.requires_grad_()
    (carry(x, q, "rotation") * torch.tensor([[1.0, 2.0]])).sum().backward()
    assert x.grad.isfinite().all()
    if case in ("zero vector", "same"):
        torch.testing.assert_close(x.grad, torch.tensor([[1.0, 2.0]]))
    if case == "zero codeword":
        assert (x.grad == 0).all()


@pytest.mark.parametrize("kind", ["vector", "residual", "simvq", "residual of simvq"])
def test_quantizers_rotate_latents_onto_their_codewords(kind):
    """A stack once, onto the sum of its codewords: the latents are what the decoder's gradient is for."""
    torch.manual_seed(0)
    quantizer = {
        "vector": lambda: VectorQuantizer(6, 16, gradient="rotation"),
        "residual": lambda: residual_vq(6, 16, levels=3, gradient="rotation"),
        "simvq": lambda: SimVectorQuantizer(6, 16, gradient="rotation"),
        "residual of simvq": lambda: ResidualVectorQuantizer(
            [SimVectorQuantizer(6, 16, gradient="rotation", seed=seed) for seed in range(3)]
        ),
    }[kind]().eval()
    z, weights = vectors(3, 6, 10).requires_grad_(), vectors(3, 6, 10, seed=1)
    output = quantizer(z, torch.tensor([len(quantizer.codebook_sizes), 1, 0]))
    torch.testing.assert_close(output.z_q, quantizer.decode(output.codes))
    (output.z_q * weights).sum().backward()
    expected = rotated(by_cell(z[:2]), by_cell(output.z_q[:2]), by_cell(weights[:2]))
    torch.testing.assert_close(by_cell(z.grad[:2]), expected, atol=1e-5, rtol=1e-4)
    assert (z.grad[2] == 0).all()


def test_a_factorized_quantizer_rotates_in_the_small_space_between_its_projections():
    torch.manual_seed(0)
    quantizer = FactorizedVectorQuantizer(6, 16, code_dim=3, gradient="rotation")
    z, weights = vectors(2, 6, 5).requires_grad_(), vectors(2, 6, 5, seed=1)
    output = quantizer(z)
    (output.z_q * weights).sum().backward()
    small = by_cell(z) @ quantizer.project_in.weight.T + quantizer.project_in.bias
    codewords = quantizer.embedding[output.codes.flatten()].detach()
    inside = rotated(small.detach(), codewords, by_cell(weights) @ quantizer.project_out.weight.detach())
    torch.testing.assert_close(by_cell(z.grad), inside @ quantizer.project_in.weight.detach(), atol=1e-5, rtol=1e-4)
    assert quantizer.embedding.grad is None or quantizer.embedding.grad.abs().sum() == 0


def test_one_codebook_trains_its_latents_as_vector_quantize_pytorch_does():
    ours = VectorQuantizer(6, 16, gradient="rotation", restart_threshold=0.0).train()
    theirs = VectorQuantize(dim=6, codebook_size=16, rotation_trick=True).train()
    copy_codewords(theirs, ours.embedding)
    z, mine = (vectors(2, 30, 6).requires_grad_() for _ in range(2))
    weights = vectors(2, 30, 6, seed=1)
    expected, codes, loss = theirs(z)
    ((expected * weights).sum() + loss.sum()).backward()
    output = ours(mine.movedim(2, 1))
    ((output.z_q.movedim(1, 2) * weights).sum() + output.loss).backward()
    assert torch.equal(output.codes[:, 0], codes)
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine.grad, z.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: VectorQuantizer(4, 8, gradient="sideways"),
        lambda: FactorizedVectorQuantizer(4, 8, gradient="sideways"),
        lambda: SimVectorQuantizer(4, 8, gradient="sideways"),
        lambda: residual_vq(4, 8, 2, gradient="sideways"),
    ],
    ids=["vector", "factorized", "simvq", "residual"],
)
def test_unknown_gradients_are_refused(build):
    with pytest.raises(ValueError, match="one of straight-through, rotation, got 'sideways'"):
        build()


def test_levels_that_disagree_about_the_gradient_are_refused():
    with pytest.raises(ValueError, match="one kind and vector size and gradient"):
        ResidualVectorQuantizer([VectorQuantizer(4, 8), VectorQuantizer(4, 8, gradient="rotation")])
