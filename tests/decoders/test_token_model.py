"""Bad input to a decoder gives one clear error, whatever the decoder."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.autoregressive import PartialDecoder
from zoo.decoders.transformer import Conditioning


@pytest.fixture
def model():
    return small_decoder(specials=1)


def test_facts_are_counted(model):
    info = model.info
    assert (info.cards, info.codebooks, info.vocabulary, info.layers, info.width) == ((11, 7), 2, 11, 3, 16)
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert info.asdict()["vocabulary"] == 11
    assert PartialDecoder(model, [0, 2]).info.layers == 2
    assert small_decoder(loops=4).info.layers == 12
    tied, untied = small_decoder(tied=True).info.parameters, small_decoder().info.parameters
    assert untied - tied == 18 * 16


def test_logits_are_float32_and_minus_infinity_where_a_codebook_has_no_token(model):
    logits = model.bfloat16()(random_tokens(model, 2, 3)).logits
    assert logits.dtype == torch.float32 and logits.shape == (2, 3, 2, 11)
    assert (logits[..., 1, 7:] == -torch.inf).all() and logits[..., 1, :7].isfinite().all()
    assert logits[..., 0, :].isfinite().all()


def test_special_ids_go_in_and_never_come_out(model):
    tokens = random_tokens(model, 1, 3)
    tokens[0, 1] = torch.tensor([11, 7])
    assert model(tokens).logits.shape[-1] == 11


TOKENS = torch.zeros(2, 3, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(TOKENS + 12), r"token 12 \(row 0, slot 0, codebook 0\) is outside .* 0 .. 11"),
        (lambda m: m(TOKENS + 8), r"token 8 \(row 0, slot 0, codebook 1\) .* 0 .. 7"),
        (lambda m: m(TOKENS - 1), "token -1"),
        (lambda m: m(TOKENS[..., :1]), "this model has 2 codebooks"),
        (lambda m: m(TOKENS[..., 0]), r"\[rows, slots, 2\]"),
        (lambda m: m(TOKENS[:, :0]), "at least one slot"),
        (lambda m: m(TOKENS, state=m.init_state(2, 2)), "a block of 3 slots behind 0 committed steps"),
        (lambda m: m(TOKENS, state=m.init_state(1, 8)), "2 rows, the state 1"),
        (lambda m: m(TOKENS, block_mask=torch.ones(1, 2, 2, dtype=torch.bool)), "the block mask is"),
        (lambda m: m(TOKENS, block_mask=torch.ones(1, 3, 3)), "the block mask is torch.float32"),
        (lambda m: m(TOKENS, torch.zeros(2, 2, dtype=torch.int64)), "positions have the shape"),
        (lambda m: m.init_state(2, 8, Conditioning(vector=torch.zeros(2, 4))), "the condition's vector"),
        (lambda m: m.init_state(2, 8, Conditioning(torch.zeros(2, 3, 4))), "the condition's sequence"),
        (lambda m: m.init_state(0, 8), "at least one row"),
        (lambda m: m.depth(torch.zeros(2, 3, 16), TOKENS), "don't depend on each other"),
        (lambda m: PartialDecoder(m, [1, 0]), "in order"),
        (lambda m: PartialDecoder(m, [3]), r"not some of 0 .. 2"),
    ],
)  # fmt: skip
def test_bad_input_is_named(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_a_grid_needs_its_positions():
    with pytest.raises(ValueError, match="positions have 2 coordinates"):
        small_decoder(axes=2, head_dim=8)(TOKENS)


@pytest.mark.parametrize("learned", [True, False])
def test_positions_end_at_the_context(learned):
    model = small_decoder(rope=not learned, learned_positions=learned, context=4)
    model(random_tokens(model, 1, 4))
    with pytest.raises(ValueError, match="position 4 is beyond the context of 4"):
        model(random_tokens(model, 1, 5))
    state = model.init_state(1, 6)
    model(random_tokens(model, 1, 3), state=state)
    state.commit(None, 3)
    with pytest.raises(ValueError, match="position 4 is beyond the context of 4"):
        model(random_tokens(model, 1, 2), state=state)


def test_nan_logits_are_an_error_when_decoding_and_left_to_the_loss_when_training(model):
    model.heads.product.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN logits"):
        model(TOKENS)
    model.train()(TOKENS)


def test_unchecked_models_do_not_look_at_values(model):
    model.heads.product.weight.data[0, 0] = torch.nan
    model.checked = False
    assert model(TOKENS).logits.isnan().any()
