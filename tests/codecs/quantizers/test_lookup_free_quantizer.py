"""Lookup-free quantization: bit order, entropies against brute force, and equality with vector-quantize-pytorch."""

import itertools
import math

import pytest
import torch
from vector_quantize_pytorch import LFQ, ResidualLFQ

from zoo.codecs.quantizers import LookupFreeQuantizer, ResidualVectorQuantizer
from zoo.codecs.quantizers.code_entropy import entropies_of_bits, entropies_of_choices


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(z: torch.Tensor, scale: float, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Both entropies by listing every codeword; `z` is `[vector, bit]`, in float64."""
    codewords = scale * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=z.shape[1])), dtype=torch.float64)
    shares = (2 * z.double() @ codewords.T / temperature).softmax(dim=1)
    mean = shares.mean(dim=0)
    return torch.special.entr(shares).sum(dim=1).mean(), torch.special.entr(mean).sum()


def test_the_first_dimension_is_the_lowest_bit_unless_told_otherwise():
    z = torch.tensor([[[0.3], [-2.0], [-0.1], [5.0]]])
    assert LookupFreeQuantizer(4).encode(z).item() == 0b1001
    z[0, 1] = 0.1
    assert LookupFreeQuantizer(4).encode(z).item() == 0b1011
    assert LookupFreeQuantizer(4, first_bit="highest").encode(z).item() == 0b1101
    assert LookupFreeQuantizer(4, scale=0.5).decode(torch.tensor([[[0b0011]]])).flatten().tolist() == [
        0.5, 0.5, -0.5, -0.5,
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 5.0])
def test_entropies_equal_those_of_all_codes_listed(bits, temperature):
    z = latents(30, bits)
    own, together = entropies_of_bits(4 * 0.5 / temperature * z)
    expected = brute_force(z, 0.5, temperature)
    torch.testing.assert_close(own, expected[0].float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, expected[1].float(), atol=1e-5, rtol=1e-4)


def test_gradient_of_the_loss_equals_that_of_all_codes_listed():
    z = latents(1, 6, 20).requires_grad_()
    quantizer = LookupFreeQuantizer(6, commitment_weight=0.0, entropy_weight=0.7, diversity=1.5, temperature=2.0)
    quantizer(z).loss.backward()
    copy = z.detach().clone().requires_grad_()
    own, together = brute_force(copy[0].T, 1.0, 2.0)
    (0.7 * (own - 1.5 * together)).backward()
    torch.testing.assert_close(z.grad, copy.grad, atol=1e-7, rtol=1e-4)
    assert z.grad.abs().max() > 1e-3


def test_gradient_is_finite_where_choices_are_certain():
    """At the usual temperature most shares are 0 to the last bit, where an entropy has no finite slope."""
    z = (10 * latents(1, 8, 20)).requires_grad_()
    LookupFreeQuantizer(8)(z).loss.backward()
    assert z.grad.isfinite().all()


def test_grouped_entropy_is_the_sum_over_groups_and_no_less_than_the_exact_one():
    logits = latents(50, 7) @ latents(7, 7, seed=1)  # bits that depend on each other
    own, grouped = entropies_of_bits(logits, group=3)
    exact = entropies_of_bits(logits)
    parts = [brute_force(logits[:, part], 1.0, 4.0)[1] for part in (slice(0, 3), slice(3, 6), slice(6, 7))]
    torch.testing.assert_close(grouped, sum(parts).float())
    assert own == exact[0] and grouped > exact[1] + 0.1


def test_grouped_entropy_is_exact_for_independent_bits():
    """All sixteen values of four bits, once each."""
    logits = 3 * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    torch.testing.assert_close(entropies_of_bits(logits, group=2), entropies_of_bits(logits))
    assert entropies_of_bits(logits)[1].item() == pytest.approx(math.log(16))


def test_eighteen_bits_are_exact_in_little_memory():
    """Two equally frequent codes: an entropy of log 2 among 262,144 codes."""
    quantizer = LookupFreeQuantizer(18, commitment_weight=0.0, entropy_weight=1.0)
    z = torch.ones(1, 18, 2)
    z[0, :, 1] = -1
    assert quantizer(z).loss.item() == pytest.approx(-math.log(2), abs=1e-4)
    assert quantizer.encode(z).flatten().tolist() == [2**18 - 1, 0]


def test_entropies_of_plain_choices_equal_their_definition():
    logits = latents(40, 9)
    shares = logits.softmax(dim=1)
    own, together = entropies_of_choices(logits)
    torch.testing.assert_close(own, torch.special.entr(shares).sum(dim=1).mean())
    torch.testing.assert_close(together, torch.special.entr(shares.mean(dim=0)).sum())
    assert [entropy.item() for entropy in entropies_of_choices(logits[:0])] == [0, 0]


def test_commitment_is_weighed():
    z = torch.tensor([[[3.0], [-1.0]]], requires_grad=True)  # the codeword is (1, -1)
    output = LookupFreeQuantizer(2, commitment_weight=0.5, entropy_weight=0.0)(z)
    output.loss.backward()
    assert output.usage.commitment.tolist() == [2] and output.loss.item() == 1  # 2 ** 2 / 2 dimensions
    assert z.grad.flatten().tolist() == [1, 0]


def test_codes_latents_and_loss_equal_vector_quantize_pytorch():
    theirs = LFQ(codebook_size=256, dim=8, entropy_loss_weight=0.3, commitment_loss_weight=0.25, diversity_gamma=2.0)
    quantizer = LookupFreeQuantizer(
        8, first_bit="highest", entropy_weight=0.3, commitment_weight=0.25, diversity=2.0, temperature=1.0
    )
    z = 0.3 * latents(2, 300, 8)
    # At a temperature of 1: their logarithm cuts shares under 1e-5 off, which at .01 nearly all are.
    expected, codes, loss = theirs.train()(z, inv_temperature=1.0)
    output = quantizer(z.movedim(2, 1))
    assert torch.equal(output.codes[:, 0], codes.long()) and codes.unique().numel() > 200
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected)
    torch.testing.assert_close(output.loss, loss, rtol=1e-3, atol=1e-4)


def test_residual_codes_and_latents_equal_vector_quantize_pytorch():
    theirs = ResidualLFQ(dim=8, codebook_size=256, num_quantizers=4).eval()
    quantizer = ResidualVectorQuantizer(
        [LookupFreeQuantizer(8, scale=0.5**level, first_bit="highest") for level in range(4)]
    )
    z = latents(2, 300, 8)
    expected, codes, _ = theirs(z)
    output = quantizer(z.movedim(2, 1))
    assert torch.equal(output.codes.movedim(1, 2), codes.long())
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(bits=0), "bits must lie in 1..62, got 0"),
        (dict(bits=8, first_bit="middle"), "lowest or highest, got 'middle'"),
        (dict(bits=8, entropy_group=0), "None or a number of bits from 1, got 0"),
    ],
    ids=["bits", "order", "group"],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LookupFreeQuantizer(**options)
