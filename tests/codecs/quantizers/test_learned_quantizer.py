"""Codebooks that gradients train go where the latents are; on the sphere, only directions count."""

import torch
from torch.nn.functional import normalize

from zoo.codecs.quantizers import LearnedVectorQuantizer


def latents(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 8, 5, 5, generator=torch.Generator().manual_seed(1))


def test_lengths_count_only_off_the_sphere():
    torch.manual_seed(0)
    plain, sphere = LearnedVectorQuantizer(8, 64), LearnedVectorQuantizer(8, 64, sphere=True)
    sphere.load_state_dict(plain.state_dict())
    z = latents()
    assert torch.equal(sphere.encode(3 * z), sphere.encode(z))
    assert not torch.equal(plain.encode(3 * z), plain.encode(z))
    torch.testing.assert_close(sphere(z).z_q.norm(dim=1), torch.ones(4, 5, 5))


def test_the_code_on_the_sphere_is_the_one_of_largest_cosine():
    torch.manual_seed(0)
    sphere = LearnedVectorQuantizer(8, 64, sphere=True)
    z = latents()
    cosines = torch.einsum("bdyx,kd->bkyx", normalize(z, dim=1), normalize(sphere.embedding, dim=1))
    assert torch.equal(sphere.encode(z)[:, 0], cosines.argmax(dim=1))


def test_the_gradient_on_the_sphere_passes_the_division_by_the_length():
    torch.manual_seed(0)
    sphere = LearnedVectorQuantizer(8, 64, sphere=True, commitment_weight=0)
    z = latents().requires_grad_()
    (sphere(z).z_q * torch.randn(4, 8, 5, 5)).sum().backward()
    assert z.grad.abs().max() > 0.1
    assert (z.grad * z).sum(dim=1).abs().max() < 1e-5  # scaling a latent changes nothing


def test_gradient_steps_bring_the_codewords_to_the_latents():
    torch.manual_seed(0)
    for sphere in (False, True):
        quantizer = LearnedVectorQuantizer(8, 64, sphere)
        optimizer = torch.optim.SGD(quantizer.parameters(), lr=20.0)
        commitments = []
        for _ in range(50):
            output = quantizer(latents())
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            commitments.append(float(output.usage.commitment))
        assert commitments[-1] < 0.75 * commitments[0]


def test_the_two_halves_of_the_loss_are_weighted_apart():
    torch.manual_seed(0)
    quantizer = LearnedVectorQuantizer(8, 64, commitment_weight=0.5, codebook_weight=2.0)
    output = quantizer(latents())
    torch.testing.assert_close(output.loss, 2.5 * output.usage.commitment[0])
