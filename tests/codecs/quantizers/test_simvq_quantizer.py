"""SimVQ: what is frozen, what moves, and equality with vector-quantize-pytorch."""

import pytest
import torch
from vector_quantize_pytorch import SimVQ

from zoo.codecs.quantizers import SimVectorQuantizer


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
@pytest.mark.parametrize("frozen_dim", [8, 5])
def test_codes_latents_loss_and_gradients_equal_vector_quantize_pytorch(gradient, frozen_dim):
    theirs = SimVQ(8, 64, frozen_codebook_dim=frozen_dim, rotation_trick=gradient == "rotation")
    ours = SimVectorQuantizer(8, 64, frozen_dim, gradient=gradient)
    ours.load_state_dict({"frozen": theirs.frozen_codebook, "transform.weight": theirs.code_transform.weight})
    z, mine = (latents(2, 200, 8).requires_grad_() for _ in range(2))
    weights = latents(2, 200, 8, seed=1)
    expected, codes, loss = theirs(z)
    output = ours(mine.movedim(2, 1))
    assert torch.equal(output.codes[:, 0], codes) and codes.unique().numel() > 30
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.loss, loss)
    ((expected * weights).sum() + loss).backward()
    ((output.z_q.movedim(1, 2) * weights).sum() + output.loss).backward()
    torch.testing.assert_close(mine.grad, z.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.transform.weight.grad, theirs.code_transform.weight.grad, atol=1e-5, rtol=1e-4)


def test_one_step_moves_every_codeword_and_no_random_vector():
    quantizer = SimVectorQuantizer(6, 32).train()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    every = torch.arange(32).view(1, 1, 32)
    before, frozen = quantizer.decode(every), quantizer.frozen.clone()
    output = quantizer(latents(1, 6, 1))  # a single vector chooses a single code
    output.loss.backward()
    optimizer.step()
    assert ((quantizer.decode(every) - before).abs().amax(dim=1) > 1e-4).all()
    assert torch.equal(quantizer.frozen, frozen)


def test_random_vectors_are_those_of_the_seed():
    assert torch.equal(SimVectorQuantizer(4, 8, seed=3).frozen, SimVectorQuantizer(4, 8, seed=3).frozen)
    assert not torch.equal(SimVectorQuantizer(4, 8, seed=3).frozen, SimVectorQuantizer(4, 8, seed=4).frozen)
