"""Gumbel-softmax: what is drawn when, from which law, and what the loss is."""

import copy
import math

import pytest
import torch
from torch import nn

from zoo.codecs.quantizers import GumbelQuantizer


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(logits: list[float], **options) -> GumbelQuantizer:
    """A quantizer with these logits for every latent of size 2."""
    quantizer = GumbelQuantizer(2, len(logits), **options)
    nn.init.zeros_(quantizer.logits.weight)
    quantizer.logits.bias = nn.Parameter(torch.tensor(logits))
    return quantizer


def test_codes_are_the_largest_logits_in_eval_mode_and_in_encode_always():
    torch.manual_seed(0)
    quantizer, z = GumbelQuantizer(6, 16), latents(2, 6, 50)
    largest = (z.movedim(1, -1) @ quantizer.logits.weight.T + quantizer.logits.bias).argmax(dim=-1)
    assert torch.equal(quantizer.train().encode(z)[:, 0], largest)
    assert not torch.equal(quantizer(z).codes[:, 0], largest)
    assert torch.equal(quantizer.encode(z)[:, 0], largest)
    assert torch.equal(quantizer.eval()(z).codes[:, 0], largest)


def test_training_draws_from_the_softmax_of_the_logits_at_every_temperature():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for temperature in (0.1, 1.0, 3.0):
        quantizer = plain(shares.log().tolist(), temperature=temperature).train()
        drawn = torch.bincount(quantizer(torch.zeros(1, 2, 20000)).codes.flatten(), minlength=4) / 20000
        assert drawn.tolist() == pytest.approx(shares.tolist(), abs=0.015)  # 4 deviations of .0035


def test_training_decodes_what_it_drew_with_the_gradient_of_the_softmax():
    quantizer = GumbelQuantizer(6, 16, temperature=0.7).train()
    z, weights = latents(2, 6, 50).requires_grad_(), latents(2, 6, 50, seed=1)
    output = quantizer(z)
    torch.testing.assert_close(output.z_q, quantizer.decode(output.codes))
    (output.z_q * weights).sum().backward()
    assert (quantizer.logits.weight.grad.abs().amax(dim=1) > 0).all()  # of all codes, drawn or not
    unused = [code for code in range(16) if code not in output.codes]
    assert (quantizer.embedding.grad[unused] == 0).all() and quantizer.embedding.grad.abs().sum() > 0


def test_without_straight_through_training_decodes_a_mixture_and_eval_a_codeword():
    quantizer = plain([0.0, 1.0], straight_through=False, temperature=2.0)
    quantizer.embedding = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    mixed = quantizer.train()(torch.zeros(1, 2, 100)).z_q
    assert ((mixed > 0) & (mixed < 1)).float().mean() > 0.9 and mixed.std() > 0.1
    assert (quantizer.eval()(torch.zeros(1, 2, 100)).z_q == 1).all()


def test_a_lower_temperature_brings_the_mixture_nearer_to_codewords():
    distances = []
    for temperature in (2.0, 0.5, 0.1):
        quantizer = plain([0.0, 0.0], straight_through=False, temperature=temperature).train()
        quantizer.embedding = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        mixed = quantizer(torch.zeros(1, 2, 500)).z_q
        distances.append(torch.minimum(mixed, 1 - mixed).mean().item())
    assert distances[0] > 2 * distances[1] > 4 * distances[2]


def test_draws_are_a_function_of_seed_and_step_alone():
    z = latents(2, 6, 50)
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(6, 16, seed=1).train()
    before = torch.get_rng_state()
    first, second = quantizer(z).codes, quantizer(z).codes
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(first, second)
    again = GumbelQuantizer(6, 16, seed=1).train()
    again.load_state_dict(copy.deepcopy(quantizer.state_dict()) | {"steps": torch.tensor(1)})  # resumed after one step
    assert torch.equal(again(z).codes, second)
    other = GumbelQuantizer(6, 16, seed=2).train()
    other.load_state_dict(copy.deepcopy(quantizer.state_dict()) | {"steps": torch.tensor(1)})
    assert not torch.equal(other(z).codes, second)


def test_eval_mode_changes_nothing():
    quantizer = GumbelQuantizer(6, 16).eval()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(latents(2, 6, 50))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_loss_is_the_divergence_from_uniform():
    certain, uniform = plain([100.0, 0.0, 0.0, 0.0], kl_weight=0.5), plain([1.0] * 4, kl_weight=0.5)
    assert certain(torch.zeros(1, 2, 3)).loss.item() == pytest.approx(0.5 * math.log(4))
    assert uniform(torch.zeros(1, 2, 3)).loss.item() == pytest.approx(0, abs=1e-6)
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    expected = (shares * (shares * 4).log()).sum().item()
    output = plain(shares.log().tolist(), kl_weight=2.0)(torch.zeros(1, 2, 3))
    assert output.loss.item() == pytest.approx(2 * expected)
