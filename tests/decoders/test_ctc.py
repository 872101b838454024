"""The loss sums over all placings of the tokens, and decoding reads the placing that it finds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_parallel import COND, CORE, SOURCE, small_parallel, trained

from zoo import registry
from zoo.configs import to_json
from zoo.decoders.conditioning import ConditionConfig, Conditions, text_ids
from zoo.decoders.ctc import CTCConfig, CTCDecoder, begins, ctc_nats, prefix_beam
from zoo.decoders.parallel import mean_nats
from zoo.decoders.sampling import Exactness, Law, Noise, guidance

PREFIX = ConditionConfig(16, classes=3, way="prefix")


def spelled(placing: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """What a placing reads as: equal neighbours once, then no blanks."""
    return tuple(token for token, _ in itertools.groupby(placing) if token != blank)


def laws_of(rows: int, places: int, tokens: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(rows, places, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * logits).log_softmax(-1)


def by_spelling(law: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of all that the places can spell."""
    found: dict[tuple[int, ...], float] = {}
    for placing in itertools.product(range(law.shape[1]), repeat=law.shape[0]):
        logp = sum(float(law[place, token]) for place, token in enumerate(placing))
        codes = spelled(placing, law.shape[1] - 1)
        found[codes] = found.get(codes, 0.0) + math.exp(logp)
    return found


def test_the_loss_is_that_of_all_placings_together():
    law = laws_of(1, 5, 4)[0]
    expected = by_spelling(law)
    for codes in [(), (1,), (0, 2), (1, 1), (2, 1, 2), (0, 0, 0)]:
        nats = ctc_nats(law[None], torch.tensor([5]), torch.tensor([[*codes, -1]]), torch.tensor([len(codes)]))
        assert math.exp(-nats) == pytest.approx(expected[codes], rel=1e-6)


def test_what_fits_in_no_way_is_infinitely_improbable_and_moves_nothing():
    """Three equal tokens take five places, as blanks part them."""
    law = laws_of(2, 5, 4).requires_grad_()
    codes = torch.tensor([[1, 1, 1], [1, 1, 1]])
    nats = ctc_nats(law, torch.tensor([5, 4]), codes, torch.tensor([3, 3]))
    assert nats[0].isfinite() and nats[1] == torch.inf
    mean_nats(nats, codes[..., None]).backward()
    assert law.grad[0].abs().max() > 0 and not law.grad[1].any()
    assert mean_nats(nats, codes[..., None]) == nats[0] / 3


def test_a_placing_is_read_as_tokens_up_to_the_end_of_its_row():
    tokens = torch.tensor([[3, 1, 1, 3, 1, 2, 2, 0], [0, 0, 3, 0, 1, 1, 1, 1]])
    kept = begins(tokens, torch.tensor([8, 4]), blank=3)
    assert tokens[0, kept[0]].tolist() == [1, 1, 2, 0] and tokens[1, kept[1]].tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_most_probable_codes(seed):
    law = laws_of(1, 5, 3, seed)[0]
    expected = by_spelling(law)
    codes, logp = prefix_beam(law, 200)
    assert codes == max(expected, key=expected.get)
    assert math.exp(logp) == pytest.approx(expected[codes])


def test_a_beam_sums_where_the_best_placing_alone_misleads():
    """Blank, blank is the best placing (0.36); the token has 0.4 x 0.6 x 2 + 0.4 x 0.4 = 0.64."""
    law = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log()
    codes, logp = prefix_beam(law, 2)
    assert codes == (0,) and math.exp(logp) == pytest.approx(0.64)


def test_rows_are_decoded_as_they_are_alone_and_a_row_of_nothing_says_nothing():
    model = small_parallel(CTCDecoder, (5,), upsampling=4)
    result = model.generate(COND)
    assert result.exactness is Exactness.APPROXIMATE and result.lengths[2] == 0 and result.lengths[0] > 0
    for row, text in enumerate(["abc", "d"]):
        alone = model.generate(Conditions(text=text_ids([text])))
        length = int(result.lengths[row])
        assert alone.lengths == length and torch.equal(alone.codes[0], result.codes[row, :length])
        torch.testing.assert_close(alone.logp[0], result.logp[row, :length])
        assert (result.codes[row, length:] == -1).all()
    codes = torch.tensor([[0, 1, 1], [3, -1, -1], [-1, -1, -1]])[..., None]
    nats = model.nats(codes, COND)
    torch.testing.assert_close(nats[1:2], model.nats(codes[1:2, :1], Conditions(text=text_ids(["d"]))))


def test_places_may_be_drawn_and_row_and_seed_decide_what():
    model = small_parallel(CTCDecoder, (5,), upsampling=4)
    cond = Conditions(text=text_ids(["abc", "abc"]))
    first, again, other = (model.generate(cond, Law(2.0), Noise(seed)).codes for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    alone = model.generate(Conditions(text=text_ids(["abc"])), Law(2.0), Noise(1, rows=(1,)))
    assert torch.equal(alone.codes[0], first[1, : alone.lengths[0]]) and not torch.equal(first[0], first[1])


def test_gradients_reach_every_weight():
    model = small_parallel(CTCDecoder, (5,)).train()
    codes = torch.tensor([[0, 1, 2], [3, -1, -1]])[..., None]
    mean_nats(model.nats(codes, Conditions(text=text_ids(["abc", "d"]))), codes).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_it_learns_to_say_each_letter_twice():
    """Lengths come out right, too; two equal neighbours need the blank between them."""
    texts = ["ab", "b", "cab", "bca", "acb", "c"]
    codes = torch.full((6, 6, 1), -1)
    for row, text in enumerate(texts):
        doubled = [ord(letter) - ord("a") for letter in text for _ in range(2)]
        codes[row, : len(doubled), 0] = torch.tensor(doubled)
    model = trained(small_parallel(CTCDecoder, (4,), upsampling=4, random=False), texts, codes, 120)
    cond = Conditions(text=text_ids(texts))
    assert torch.equal(model.generate(cond).codes, codes)
    assert torch.equal(model.search(cond), codes)


def test_it_is_made_by_name():
    config = CTCConfig(cards=(5,), transformer=CORE, condition=SOURCE, upsampling=3)
    model = registry.create("ctc", **to_json(config))
    assert model.config == config and registry.architecture_of(model) == "ctc"
    assert model.info.conditioning == ("text",) and not model.info.causal
    assert model.info.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: CTCConfig(cards=(5, 5), transformer=CORE, condition=SOURCE, upsampling=2), "flatten others"),
        (lambda m: CTCConfig(cards=(5,), transformer=CORE, condition=SOURCE, upsampling=0), "upsampling"),
        (lambda m: CTCConfig(cards=(5,), transformer=CORE, condition=PREFIX, upsampling=2), "cross"),
        (lambda m: m.init_state(2, 4, COND), "only one"),
        (lambda m: m.init_state(2, 0), "makes its places of text"),
        (lambda m: m(torch.full((3, 4, 1), 5), state=m.init_state(3, 0, COND)), "4 places, and 6 were made"),
        (lambda m: m(torch.full((3, 4, 1), 5)), "none were made"),
        (lambda m: m.generate(COND, Law(streams=guidance(2.0))), "leave out streams"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_parallel(CTCDecoder, (5,)))
