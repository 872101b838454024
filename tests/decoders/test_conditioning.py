"""Conditions reach their own row by each way in, and one that is left out is as if it had never been there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_decoders import CARDS, random_tokens, small_decoder
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from zoo.decoders.conditioning import BYTES, ConditionConfig, ConditionedDecoder, Conditions, text_ids
from zoo.decoders.durations import DurationPredictor
from zoo.decoders.prefix import Aligned, PrefixConditioning
from zoo.decoders.sampling import Law, Noise, decode, proposers
from zoo.decoders.transformer import TransformerConfig

READER = TransformerConfig(width=16, layers=1, heads=2, causal=False)
WAYS = {
    "prefix": ({"way": "prefix"}, {}),
    "prefix, read first": ({"way": "prefix", "encoder": READER}, {}),
    "prefix in time": ({"way": "prefix", "encoder": READER, "timed": True}, {}),
    "cross": ({"encoder": READER}, {"cross": 16}),
    "norms": ({"encoder": READER, "pooled": ("labels", "text", "reference")}, {"adaptive": 16}),
    "speaker by norms, the rest by prefix": (
        {"encoder": READER, "way": "prefix", "pooled": ("reference",)},
        {"adaptive": 16},
    ),
}
COND = Conditions(
    labels=torch.tensor([2, -1, 0]),
    text=text_ids(["hé", "abc", ""]),
    reference=torch.tensor([[[1, 2], [3, 4]], [[5, 6], [-1, -1]], [[-1, -1], [-1, -1]]]),
    durations=torch.tensor([[1.5, 1.0, 2.5], [0.5, 0.5, 1.0], [0.0, 0.0, 0.0]]),
)


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def model(request):
    return conditioned(*request.param)


def conditioned(config, decoder):
    torch.manual_seed(1)
    config = ConditionConfig(**({"width": 16, "classes": 3, "text": BYTES, "reference": CARDS} | config))
    model = ConditionedDecoder(config, small_decoder(**decoder)).double().eval()
    for parameter in model.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def of_row(cond: Conditions, row: int) -> Conditions:
    """The row's conditions alone, without padding."""
    text = cond.text[row : row + 1, : int((cond.text[row] >= 0).sum())]
    reference = cond.reference[row : row + 1, : int((cond.reference[row, :, 0] >= 0).sum())]
    return Conditions(cond.labels[row : row + 1], text, reference, cond.durations[row : row + 1, : text.shape[1]])


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def logits_of(model, tokens, cond):
    return model(tokens, state=model.init_state(len(tokens), 0, cond)).logits


def test_every_kind_changes_its_own_row_and_padding_changes_none(model):
    tokens = random_tokens(model, 3, 4)
    logits = logits_of(model, tokens, COND)
    for row in range(3):
        close(logits[row], logits_of(model, tokens[row : row + 1], of_row(COND, row))[0])
    for kind in ("labels", "text", "reference"):
        without = logits_of(model, tokens, COND.dropped(1.0, Noise(0), kinds=(kind,)))
        moved = (without - logits).nan_to_num().abs().amax((1, 2, 3)) > 1e-3
        assert moved.tolist() == (getattr(COND, kind).view(3, -1) >= 0).any(1).tolist()


def test_a_row_whose_conditions_are_left_out_is_an_unconditional_one(model):
    tokens = random_tokens(model, 3, 4)
    plain = model(tokens).logits
    close(logits_of(model, tokens, None), plain)
    close(logits_of(model, tokens, COND.dropped(1.0, Noise(0))), plain)
    for room in (0, 6):
        both = Conditions.stack([COND, None])
        logits = model(tokens.repeat(2, 1, 1), state=model.init_state(6, room, both)).logits
        close(logits[:3], logits_of(model, tokens, COND))
        close(logits[3:], plain)


def test_decoding_with_memory_gives_the_logits_of_decoding_without(model):
    tokens = random_tokens(model, 3, 6)
    whole = logits_of(model, tokens, COND)
    for sizes in [(6,), (1,) * 6, (3, 1, 2)]:
        state, parts = model.init_state(3, 6, COND), []
        for part in tokens.split(sizes, 1):
            parts.append(model(part, state=state).logits)
            state.commit(None, part.shape[1])
        close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("proposer", [None, proposers.NGram()])
def test_greedy_decoding_behind_a_prompt_gives_the_tokens_of_decoding_without_memory(model, proposer):
    known = random_tokens(model, 3, 3)
    decoded = decode(model, known, 4, Law(temperature=0), proposer=proposer, cond=COND).codes
    for _ in range(4):
        known = torch.cat((known, logits_of(model, known, COND)[:, -1:].argmax(-1)), 1)
    assert torch.equal(decoded, known[:, 3:])


def test_a_state_that_begins_with_a_prefix_forks_and_changes_its_rows():
    model = conditioned({"way": "prefix"}, {})
    tokens, rows = random_tokens(model, 3, 4), torch.tensor([2, 0, 1])
    whole = logits_of(model, tokens, COND)
    state = model.init_state(3, 6, COND)
    model(tokens[:, :2], state=state)
    state.commit(None, 2)
    fork, chosen = state.fork(), state.select(rows[:2])
    model(tokens[:, 2:], state=fork)
    fork.commit(None, 2)
    assert (state.length.tolist(), fork.length.tolist()) == ([2, 2, 2], [4, 4, 4])
    close(model(tokens[rows[:2], 2:], state=chosen).logits, whole[rows[:2], 2:])
    state.reorder(rows)
    close(model(tokens[rows, 2:], state=state).logits, whole[rows, 2:])


def test_gradients_reach_every_weight(model):
    model.train()
    state = model.init_state(6, 0, Conditions.stack([COND, None]))
    model(random_tokens(model, 6, 4), state=state).logits.logsumexp(-1).sum().backward()
    if "durations" in model.info.conditioning:
        model.duration_loss(COND).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_prefix_is_seen_by_a_bidirectional_decoder_that_it_does_not_see():
    model = conditioned({"way": "prefix", "encoder": READER}, {"causal": False})
    tokens = random_tokens(model, 3, 4)
    logits = logits_of(model, tokens, COND)
    remembered = model(tokens, state=model.init_state(3, 4, COND)).logits
    close(remembered, logits)
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[:, :, 3] = False
    hidden_last = model(tokens, None, model.init_state(3, 0, COND), mask).logits
    close(hidden_last[:, :3], logits_of(model, tokens[:, :3], COND))


def test_a_prefix_of_a_causal_decoder_is_as_causal_as_its_tokens():
    core = small_decoder().transformer
    prefix, x = torch.randn(2, 3, 16).double(), torch.randn(2, 4, 16).double()
    places = torch.arange(7).expand(2, -1)
    plain, _ = core(torch.cat((prefix, x), 1), places)
    behind, _ = core(x, places[:, :4], core.init_state(2, 0, PrefixConditioning(prefix=prefix)))
    torch.testing.assert_close(behind, plain[:, 3:], rtol=1e-5, atol=1e-5)  # angles are float32


def test_a_prefix_stands_at_the_origin_of_a_grid():
    model = conditioned({"way": "prefix"}, {"axes": 2, "head_dim": 8})
    tokens = random_tokens(model, 3, 4)
    places = torch.cartesian_prod(torch.arange(2), torch.arange(2)).expand(3, -1, -1)
    whole = model(tokens, places, model.init_state(3, 0, COND)).logits
    state = model.init_state(3, 4, COND)
    model(tokens[:, :2], places[:, :2], state)
    state.commit(None, 2)
    close(model(tokens[:, 2:], places[:, 2:], state).logits, whole[:, 2:])


def timed():
    return conditioned(*WAYS["prefix in time"])


def test_durations_say_where_the_ids_of_a_text_stand_and_nothing_else():
    model = timed()
    assert model.info.conditioning == ("labels", "text", "reference", "durations")
    tokens = random_tokens(model, 3, 4)
    slower = replace(COND, durations=COND.durations * 2)
    moved = (logits_of(model, tokens, slower) - logits_of(model, tokens, COND)).nan_to_num().abs().amax((1, 2, 3))
    assert (moved > 1e-4).tolist() == [True, True, False]  # the third row has no text
    found = model.encoder(3, COND)
    assert found.lengths.tolist() == [6, 4, 1]
    assert found.places[0].tolist() == [-1, 0.75, 2, 3.75, -2, -1]  # the middle of each id's time
    assert found.places[1, :4].tolist() == [0.25, 0.75, 1.5, -1]


def test_beside_the_tokens_a_text_is_told_in_its_time_and_nothing_behind_it():
    vectors = torch.tensor([[[1.0], [3.0], [0.0]], [[2.0], [4.0], [8.0]]])
    told = Aligned.lasting(vectors, torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 4.0]]))
    steps = torch.tensor([[0, 1, 2, 3, 9], [0, 1, 2, 3, 9]])
    assert told.at(steps)[..., 0].tolist() == [[1, 2, 3, 0, 0], [2, 4, 8, 6, 0]]


def test_durations_as_training_casts_them_tell_something_finite_everywhere():
    model = timed().float()
    lasting = torch.tensor([[300.0] + [1.0] * 9])
    with torch.autocast("cpu", torch.bfloat16):
        found = model.encoder(1, Conditions(text=text_ids(["ten bytes!"]), durations=lasting))
        assert found.aligned.at(torch.arange(400)[None]).isfinite().all()


def test_text_is_of_use_to_a_timed_decoder_even_where_attention_finds_nothing():
    model = timed()
    for layer in model.decoder.transformer.layers:
        torch.nn.init.zeros_(layer.attention.out.weight)
    tokens = random_tokens(model, 3, 4)
    other = replace(COND, text=text_ids(["hé", "abd", ""]))
    moved = (logits_of(model, tokens, other) - logits_of(model, tokens, COND)).nan_to_num().abs().amax((0, 2, 3))
    assert (moved > 1e-4).tolist() == [True, True, False, False]  # all three ids are over before step 2


def test_durations_that_are_not_given_are_those_that_the_decoder_expects():
    model = timed()
    tokens, unknown = random_tokens(model, 3, 4), replace(COND, durations=None)
    expected = model.durations(unknown)
    assert (expected > 0).tolist() == (COND.text >= 0).tolist() and not expected.requires_grad
    close(logits_of(model, tokens, unknown), logits_of(model, tokens, replace(COND, durations=expected)))
    for row in range(3):
        alone = replace(of_row(COND, row), durations=None)
        close(model.durations(alone)[0], expected[row, : alone.text.shape[1]])
    assert not torch.equal(model.durations(replace(unknown, labels=torch.tensor([0, -1, 0])))[0], expected[0])


def test_expected_durations_learn_the_mean():
    torch.manual_seed(0)
    predictor = DurationPredictor(BYTES, 0, 8, 1)
    optimizer = torch.optim.Adam(predictor.parameters(), 0.02)
    text, durations = text_ids(["aba"] * 4), torch.tensor([[1.0, 8, 2], [5, 8, 2], [1, 8, 4], [5, 8, 4]])
    for _ in range(300):
        loss = predictor.loss(text, None, durations)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(predictor(text)[0], torch.tensor([3.0, 8.0, 3.0]), rtol=0.02, atol=0)
    assert predictor.loss(torch.full((2, 3), -1), None, torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("durations", [torch.ones(2, 3), torch.tensor([[1.0, 0, 1]] * 3)])
def test_durations_that_cannot_be_are_refused(durations):
    with pytest.raises(ValueError, match="one above 0 for"):
        timed().init_state(3, 4, replace(COND, durations=durations))


def test_rows_of_conditions_keep_their_durations():
    some = COND.rows(slice(1, 3))
    assert some.labels.tolist() == [-1, 0] and torch.equal(some.durations, COND.durations[1:])
    longer = Conditions(text=text_ids(["four"] * 3), durations=torch.ones(3, 4))
    both = Conditions.stack([COND, None, longer])
    assert torch.equal(both.durations[:3, :3], COND.durations) and both.durations.shape == (9, 4)
    assert not both.durations[:3, 3:].any() and not both.durations[3:6].any() and both.durations[6:].all()


def test_which_rows_are_dropped_depends_on_seed_row_and_step_alone():
    cond = Conditions(torch.arange(400) % 3)
    kept = [(cond.dropped(0.25, Noise(seed), step).labels >= 0) for seed, step in [(0, 0), (0, 1), (1, 0)]]
    assert all(abs(rows.float().mean() - 0.75) < 0.1 for rows in kept)  # 4.6 standard deviations
    assert len({tuple(rows.tolist()) for rows in kept}) == 3
    alone = Conditions(torch.tensor([1])).dropped(0.25, Noise(0, rows=(137,)))
    assert (alone.labels >= 0).item() == kept[0][137].item()


def test_text_is_bytes_or_what_a_tokenizer_makes_of_it():
    assert text_ids(["hé", "a"]).tolist() == [[104, 195, 169], [97, -1, -1]]
    assert text_ids(["", ""]).shape == (2, 0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(["the cat the hat"] * 4, trainers.BpeTrainer(vocab_size=20, show_progress=False))
    ids = text_ids(["the cat", "hat"], tokenizer)
    assert tokenizer.decode(ids[0].tolist()).replace(" ", "").replace("Ġ", "") == "thecat"
    assert (ids[1] == -1).any() and ids.max() < 20


@pytest.mark.parametrize(
    ("config", "decoder", "message"),
    [
        ({"classes": 0, "text": 0, "reference": ()}, {}, "give sizes"),
        ({"pooled": ("mood",)}, {}, "give sizes"),
        ({}, {"cross": 16}, "reference, text would lose the order"),
        ({"way": "prefix", "pooled": ("text",)}, {}, "text would lose the order"),
        ({"encoder": READER, "timed": True}, {"cross": 16}, "a text in a prefix"),
        ({"way": "prefix", "text": 0, "timed": True}, {}, "a text in a prefix"),
        ({"encoder": TransformerConfig(width=16, layers=1, heads=2)}, {"cross": 16}, "not causal"),
    ],
)
def test_configurations_that_cannot_work_are_refused(config, decoder, message):
    with pytest.raises(ValueError, match=message):
        conditioned(config, decoder)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (Conditions(labels=torch.tensor([3, 0])), "labels holds ids up to 3"),
        (Conditions(labels=torch.tensor([1])), "for 2 rows"),
        (Conditions(text=torch.zeros(2, 3, 1, dtype=torch.int64)), "text of shape"),
        (Conditions(text=torch.full((2, 3), 256)), "below"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(cond, message):
    model = conditioned({"way": "prefix"}, {"context": 32})
    with pytest.raises(ValueError, match=message):
        model.init_state(2, 8, cond)


def test_a_kind_that_the_decoder_does_not_take_is_refused():
    with pytest.raises(ValueError, match="takes labels, and was given text"):
        conditioned({"way": "prefix", "text": 0, "reference": ()}, {}).init_state(
            1, 8, Conditions(text=text_ids(["a"]))
        )


def test_streams_without_any_condition_cannot_be_stacked():
    with pytest.raises(ValueError, match="one of them with conditions"):
        Conditions.stack([None, None])


def test_a_decoder_learns_to_say_what_its_class_says():
    """Each class has its own token; a row without class can only guess, at log 3 = 1.1 nats."""
    model = conditioned({"way": "prefix", "text": 0, "reference": ()}, {"layers": 1}).float().train()
    labels = torch.arange(3).repeat(4)
    tokens = labels[:, None, None].expand(-1, 3, 2).contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
    for step in range(30):
        cond = Conditions(labels).dropped(0.2, Noise(0), step)
        begin = torch.zeros_like(tokens[:, :1])
        logits = model(begin, state=model.init_state(12, 0, cond)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2)[:, :7], tokens[:, :1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    begin = torch.zeros(3, 1, 2, dtype=torch.int64)
    sure = logits_of(model, begin, Conditions(torch.arange(3))).softmax(-1)[:, 0, 0]
    assert sure.diagonal().min() > 0.95
    unsure = model(begin[:1]).logits.softmax(-1)[0, 0, 0, :3]
    assert unsure.max() < 0.7 and unsure.min() > 0.1
