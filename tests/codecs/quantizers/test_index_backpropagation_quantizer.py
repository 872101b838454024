"""Index backpropagation: which code, what is decoded, and which gradients reach what."""

import pytest
import torch

from zoo.codecs.quantizers import IndexBackpropagationQuantizer
from zoo.codecs.quantizers.code_entropy import entropies_of_choices


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(z: torch.Tensor, embedding: torch.Tensor, codebook_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's formulas word for word, with a one-hot matrix; `z` is `[vector, dim]`."""
    soft = (z @ embedding.T).softmax(dim=1)
    hard = torch.nn.functional.one_hot(soft.argmax(dim=1), len(embedding)).float()
    z_q = (hard - soft.detach() + soft) @ embedding
    plain = hard @ embedding
    loss = (z_q - z).square().mean() + (plain.detach() - z).square().mean()
    return z_q, loss + codebook_weight * (plain - z.detach()).square().mean()


def test_values_loss_and_gradients_are_those_of_the_paper():
    torch.manual_seed(0)
    quantizer = IndexBackpropagationQuantizer(6, 16, codebook_weight=0.25, entropy_weight=0.0)
    z, mine = (latents(50, 6).requires_grad_() for _ in range(2))
    embedding, weights = quantizer.embedding.detach().clone().requires_grad_(), latents(50, 6, seed=1)
    expected, loss = reference(z, embedding, 0.25)
    output = quantizer(mine.T[None])
    torch.testing.assert_close(output.z_q[0].T, expected)
    torch.testing.assert_close(output.loss, loss)
    ((expected * weights).sum() + loss).backward()
    ((output.z_q[0].T * weights).sum() + output.loss).backward()
    torch.testing.assert_close(mine.grad, z.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(quantizer.embedding.grad, embedding.grad, atol=1e-5, rtol=1e-4)


def test_the_decoders_gradient_for_one_vector_reaches_every_codeword():
    quantizer = IndexBackpropagationQuantizer(4, 32, entropy_weight=0.0)
    torch.nn.init.normal_(quantizer.embedding, generator=torch.Generator().manual_seed(0))
    output = quantizer(latents(1, 4, 1))
    (output.z_q * latents(1, 4, 1, seed=1)).sum().backward()
    assert (quantizer.embedding.grad.abs().amax(dim=1) > 0).all()


def test_the_code_is_the_one_of_the_largest_dot_product():
    quantizer = IndexBackpropagationQuantizer(2, 2)
    quantizer.embedding = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [9.0, 5.0]]))
    assert quantizer.encode(torch.tensor([[[1.0], [0.0]]])).item() == 1  # 0 is nearer, and of the same direction


def test_entropies_of_the_choices_are_weighed():
    torch.manual_seed(0)
    options = dict(codebook_weight=0.25, entropy_temperature=0.5)
    plain, weighed = (IndexBackpropagationQuantizer(6, 16, entropy_weight=w, **options) for w in (0.0, 0.3))
    weighed.load_state_dict(plain.state_dict())
    z = latents(1, 6, 50)
    own, together = entropies_of_choices(z[0].T @ plain.embedding.T / 0.5)
    torch.testing.assert_close(weighed(z).loss - plain(z).loss, 0.3 * (own - together))
    assert own.item() != pytest.approx(together.item())
