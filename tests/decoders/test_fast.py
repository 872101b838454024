"""Weights laid out for decoding are the same weights; those of fewer bits nearly are."""

from __future__ import annotations

import copy

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.fast import BrainLinear, ByteLinear, for_decoding
from zoo.decoders.sampling import Law, decode


def test_the_layout_changes_strides_and_nothing_else():
    model, plain = small_decoder(tied=True), small_decoder(tied=True)
    assert for_decoding(model) is model
    tokens = random_tokens(model, 2, 5)
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    layer = model.transformer.layers[0]
    assert layer.up.weight.stride() == (1, layer.up.out_features)
    assert layer.down.weight.is_contiguous()


def test_a_head_that_shares_its_table_goes_on_sharing_it():
    model = for_decoding(small_decoder(tied=True))
    assert model.heads.product.weight is model.embedding.table.weight
    assert not model.embedding.table.weight.is_contiguous()


@pytest.mark.parametrize(
    ("weights", "rounding"), [(torch.float16, 2**-7), (torch.bfloat16, 2**-3), (torch.int8, 2**-3)]
)
def test_fewer_bits_give_nearly_the_same_logits_to_each_row_on_its_own(weights, rounding):
    plain = small_decoder(cards=(11,), tied=True, qkv_bias=True).float()
    model = for_decoding(copy.deepcopy(plain), weights)
    tokens = random_tokens(model, 3, 5)
    logits, expected = model(tokens).logits, plain(tokens).logits
    assert 0 < (logits - expected).abs().max() < expected.std() * rounding
    for row in range(3):
        torch.testing.assert_close(model(tokens[row : row + 1]).logits[0], logits[row], rtol=0, atol=1e-5)


def test_weights_of_half_the_bits_decode_with_the_same_loop_and_memory():
    plain = small_decoder(cards=(11,), heads=4).float()
    halved = copy.deepcopy(plain)
    for parameter in halved.parameters():
        parameter.data = parameter.half().float()  # so that packing rounds nothing
    prompt = random_tokens(plain, 2, 4)
    expected = decode(halved, prompt, 20, Law(temperature=0))
    packed = decode(for_decoding(halved, torch.float16), prompt, 20, Law(temperature=0))
    assert torch.equal(packed.codes, expected.codes)
    torch.testing.assert_close(packed.logp, expected.logp)


def test_a_matrix_of_whole_numbers_with_row_scales_is_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    linear = torch.nn.Linear(40, 30)
    whole = torch.randint(-127, 128, (30, 40))
    whole[:, 0] = 127
    linear.weight.data = whole * torch.rand(30, 1)
    x = torch.randint(-2, 3, (5, 40)).float()
    close = torch.nn.functional.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(BrainLinear(linear)(x), close, rtol=2**-8, atol=2**-8)  # of the output alone


@pytest.mark.parametrize("packed", [BrainLinear, ByteLinear])
def test_a_block_of_rows_gives_each_what_it_gives_it_alone(packed):
    torch.manual_seed(0)
    layer, x = packed(torch.nn.Linear(64, 48)), torch.randn(9, 64)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(layer(x), alone)


@pytest.mark.parametrize("bits", [8, 7])
def test_products_of_bytes_are_sums_of_whole_numbers(bits, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: bits == 8)
    torch.manual_seed(0)
    linear, most = torch.nn.Linear(700, 30), 2 ** (bits - 1) - 1
    weight, x = torch.randint(-127, 128, (30, 700)), torch.randint(-most, most + 1, (2, 3, 700))
    weight[:, 0], x[..., 1] = 127, -most
    scales, units = torch.rand(30) + 1, torch.rand(2, 3, 1) + 1
    linear.weight.data = weight * scales[:, None]
    expected = (x.double() @ weight.double().T) * scales * units + linear.bias
    packed = ByteLinear(linear)
    torch.testing.assert_close(packed(x * units).double(), expected, rtol=1e-5, atol=1e-2)  # numbers reach 10^6
    torch.testing.assert_close(packed.rows(x * units, 7, 20).double(), expected[..., 7:20], rtol=1e-5, atol=1e-2)


def test_bytes_take_a_row_of_zeros_and_no_row():
    layer = ByteLinear(torch.nn.Linear(8, 5))
    assert torch.equal(layer(torch.zeros(2, 8)), layer.bias.expand(2, 5)) and layer(torch.zeros(0, 8)).shape == (0, 5)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        (small_decoder, torch.float16, "only float32 on a CPU is packed, not torch.float64"),
        (
            small_decoder,
            torch.int4,
            "weights of torch.int4 are not supported, only None, as they are, float16, bfloat16, int8",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(model, weights, message):
    with pytest.raises(ValueError, match=message):
        for_decoding(model(), weights)
