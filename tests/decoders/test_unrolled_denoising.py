"""Training ruins codes and asks for all of them twice; decoding restores random codes until they are right."""

from __future__ import annotations

import math

import pytest
import torch
from small_parallel import CORE, train

from zoo.decoders.base import Output, TokenModel
from zoo.decoders.conditioned import ConditionedMasked, ConditionedMaskedConfig
from zoo.decoders.conditioning import ConditionConfig, Conditions, text_ids
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, masked_loss
from zoo.decoders.sampling import Exactness, Law, Noise, guidance
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.unrolled_denoising import decode_unrolled, ruined, unrolled_loss

CARDS = (5, 3)
CROSS = TransformerConfig(16, 1, heads=2, causal=False, cross=16)
TEXT = ConditionConfig(16, text=256, encoder=CORE)


def unconditional(cards: tuple[int, ...] = CARDS) -> MaskedDecoder:
    torch.manual_seed(0)
    model = MaskedDecoder(MaskedConfig(cards, CORE)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def encoder_decoder(cards: tuple[int, ...]) -> ConditionedMasked:
    torch.manual_seed(0)
    return ConditionedMasked(ConditionedMaskedConfig(TEXT, MaskedConfig(cards, CROSS)))


def codes_of(rows: int, places: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(card, (rows, places), generator=generator) for card in CARDS], -1)


def test_a_uniform_share_of_each_row_is_replaced_by_codes_that_are_equally_probable():
    """A code is replaced with probability 1/2 and stays the same by chance in 1 of 5: 0.4 differ; 4 errors are 0.04."""
    codes = torch.zeros(1000, 20, 2, dtype=torch.int64)
    found = ruined(codes, CARDS, Noise(0))
    changed = (found != codes).double().mean(1)
    assert abs(changed[:, 0].mean() - 0.4) < 0.04 and abs(changed[:, 1].mean() - 1 / 3) < 0.04
    assert changed[:, 0].min() < 0.05 and changed[:, 0].max() > 0.7  # shares of rows lie anywhere in 0 .. 1
    counts = found[..., 0].flatten().bincount(minlength=5)[1:] / (found[..., 0] > 0).sum()
    assert (counts - 0.25).abs().max() < 0.02 and found[..., 1].max() == 2


def test_what_lies_behind_the_end_of_a_row_is_neither_seen_nor_asked_for():
    model = unconditional()
    codes = codes_of(2, 6)
    codes[1, 3:] = -1
    whole = unrolled_loss(model, codes, Noise(0))
    alone = [unrolled_loss(model, part, Noise(0, rows=(row,))) for row, part in [(0, codes[:1]), (1, codes[1:, :3])]]
    torch.testing.assert_close(whole, (12 * alone[0] + 6 * alone[1]) / 18)


def test_the_second_pass_is_given_what_the_first_one_says():
    """A model that shifts codes by one and is sure of it: the second pass sees codes shifted once, and shifts again."""
    seen = []

    class Shift(TokenModel):
        @property
        def info(self):
            return unconditional((5,)).info

        def init_state(self, rows, max_steps, cond=None):
            raise AssertionError

        def run(self, tokens, positions, state, block_mask):
            seen.append(tokens)
            logits = torch.nn.functional.one_hot((tokens + 1) % 5, 5) * 50.0
            return Output(logits, logits[:, :, 0])

    codes = codes_of(3, 6)[..., :1]
    loss = unrolled_loss(Shift(), codes, Noise(0), steps=3)
    assert torch.equal(seen[0], ruined(codes, (5,), Noise(0))) and len(seen) == 3
    assert torch.equal(seen[1], (seen[0] + 1) % 5) and torch.equal(seen[2], (seen[1] + 1) % 5)
    right = torch.stack([(tokens + 1) % 5 == codes for tokens in seen]).double().mean()
    assert float(loss) == pytest.approx(50 * float(1 - right), rel=1e-4)


def test_gradients_of_both_passes_reach_every_weight_that_runs():
    model = unconditional().train()
    codes = codes_of(3, 6)
    first = unrolled_loss(model, codes, Noise(0), steps=1)
    torch.testing.assert_close(first, masked_loss(model(ruined(codes, CARDS, Noise(0))).logits, codes))
    unrolled_loss(model, codes, Noise(0)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_known_codes_stay_and_rows_are_decoded_as_they_are_alone():
    model, known = unconditional(), codes_of(3, 5)
    known[:, 1:4] = -1
    known[0, 2, 0] = 3
    lengths = torch.tensor([5, 4, 3])
    result = decode_unrolled(model, known, 4, Law(0.5), Noise(3), 0.5, lengths=lengths)
    inside = (torch.arange(5) < lengths[:, None])[..., None]
    assert result.exactness is Exactness.APPROXIMATE and torch.equal((result.codes >= 0), inside.expand(-1, -1, 2))
    assert torch.equal(result.codes.where((known >= 0) & inside, -1), known.where(inside, -1))
    assert result.trace.tokens_per_forward.tolist() == [5 / 4, 6 / 4, 4 / 4]
    for row, length in enumerate(lengths.tolist()):
        alone = decode_unrolled(model, known[row : row + 1, :length], 4, Law(0.5), Noise(3, rows=(row,)), 0.5)
        assert torch.equal(alone.codes[0], result.codes[row, :length])


@pytest.mark.parametrize("choose", ["random", "uncertain"])
def test_a_step_changes_a_share_of_the_codes_to_what_the_model_finds_best(choose):
    model = unconditional()
    before, after = (decode_unrolled(model, (4, 8), steps, share=0.25, choose=choose).codes for steps in (1, 2))
    logits = model(before).logits
    best, moved = logits.argmax(-1), before != after
    assert torch.equal(after[moved], best[moved]) and moved.any() and not torch.equal(after, best)
    assert (moved.flatten(1).sum(1) <= 4).all()  # of 16
    if choose == "uncertain":
        now = logits.log_softmax(-1).gather(-1, before[..., None]).flatten(1)
        worst = now.argsort(1)[:, :4]
        assert torch.equal(after.flatten(1).gather(1, worst), best.flatten(1).gather(1, worst))


def test_an_encoder_decoder_learns_to_spell_and_where_to_end():
    """Codes are the letters of the text, one a place, then the end token, 3; guessing costs log 4 = 1.4 nats."""
    words = ["abc", "cba", "bb", "c"]
    codes = torch.full((4, 4, 1), 3)
    for row, word in enumerate(words):
        codes[row, : len(word), 0] = torch.tensor([ord(letter) - ord("a") for letter in word])
    model, cond, count = encoder_decoder((4,)).train(), Conditions(text=text_ids(words)), iter(range(1000))

    def loss():
        return unrolled_loss(model, codes, Noise(0).derive(next(count)), state=model.init_state(4, 0, cond))

    assert train(model.parameters(), loss, 100) < 0.1
    model.eval()
    assert torch.equal(decode_unrolled(model, (4, 4), 4, cond=cond).codes, codes)
    both = Conditions.stack([cond, None])
    guided = decode_unrolled(model, (4, 4), 6, Law(0.3, streams=guidance(1.5)), share=0.5, cond=both)
    assert torch.equal(guided.codes, codes)


def test_without_a_condition_it_settles_on_a_sentence_that_it_knows():
    """The first step, given random codes, may mix the two; restoring what it made leaves one of them."""
    sentences = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 3, 0, 2, 1, 3]])[..., None].repeat(4, 1, 1)
    torch.manual_seed(0)
    model, count = MaskedDecoder(MaskedConfig((5,), CORE)).train(), iter(range(1000))
    train(model.parameters(), lambda: unrolled_loss(model, sentences, Noise(0).derive(next(count))), 120)
    found = decode_unrolled(model.eval(), (20, 6), 10, Law(0.3), share=0.5).codes
    known = [tuple(row.flatten().tolist()) for row in sentences]
    said = [tuple(row.flatten().tolist()) for row in found]
    assert sum(row in known for row in said) >= 18 and set(known) <= set(said)


@pytest.mark.parametrize("options", [{"steps": 0}, {"share": 0.0}, {"share": 1.5}])
def test_requests_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="give at least one step"):
        decode_unrolled(unconditional(), (1, 2), **options)


def test_random_codes_cost_what_guessing_costs():
    """Of a model that knows nothing, all logits equal: log 5 and log 3 nats, the mean of which is asked."""
    model = unconditional()
    torch.nn.init.zeros_(model.heads.product.weight)
    assert unrolled_loss(model, codes_of(2, 4), Noise(0)).item() == pytest.approx((math.log(5) + math.log(3)) / 2)
