"""Weights laid out for decoding are the same weights."""

from __future__ import annotations

import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.fast import for_decoding


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
