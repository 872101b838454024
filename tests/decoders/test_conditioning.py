"""Conditions reach their own row by each way in, and one that is left out is as if it had never been there."""

from __future__ import annotations

import pytest
import torch
from small_decoders import CARDS, random_tokens, small_decoder
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from zoo.decoders.conditioning import BYTES, ConditionConfig, ConditionedDecoder, Conditions, text_ids
from zoo.decoders.prefix import Aligned, PrefixConditioning
from zoo.decoders.sampling import Law, Noise, decode, proposers
from zoo.decoders.transformer import TransformerConfig

READER = TransformerConfig(width=16, layers=1, heads=2, causal=False)
WAYS = {
    "prefix": ({"way": "prefix"}, {}),
    "prefix, read first": ({"way": "prefix", "encoder": READER}, {}),
    "prefix at a pace": ({"way": "prefix", "encoder": READER, "paced": True}, {}),
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
    pace=torch.tensor([1.5, 0.5, 1.0]),
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
    return Conditions(cond.labels[row : row + 1], text, reference, cond.pace[row : row + 1])


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


def test_the_pace_says_how_far_apart_the_ids_of_a_text_stand_and_nothing_else():
    config, decoder = WAYS["prefix at a pace"]
    model = conditioned(config, decoder)
    assert model.info.conditioning == ("labels", "text", "reference", "pace")
    tokens = random_tokens(model, 3, 4)
    faster = Conditions(COND.labels, COND.text, COND.reference, COND.pace * 2)
    moved = (logits_of(model, tokens, faster) - logits_of(model, tokens, COND)).nan_to_num().abs().amax((1, 2, 3))
    assert (moved > 1e-4).tolist() == [True, True, False]  # the third row has no text
    found = model.encoder(3, COND)
    assert found.lengths.tolist() == [6, 4, 1]
    assert found.places[0].tolist() == [-1, 0, 1.5, 3, -2, -1]
    assert found.places[1, :4].tolist() == [0, 0.5, 1, -1]


def test_beside_the_tokens_a_text_is_told_at_its_pace_and_nothing_behind_it():
    vectors = torch.tensor([[[1.0], [3.0], [0.0]], [[2.0], [4.0], [8.0]]])
    told = Aligned(vectors, torch.tensor([2.0, 1.0])).at(torch.tensor([[0, 1, 2, 3, 9], [-1, 0, 1, 2, 3]]))
    assert told[..., 0].tolist() == [[1, 2, 3, 1.5, 0], [0, 2, 4, 8, 0]]


def test_text_is_of_use_to_a_paced_decoder_even_where_attention_finds_nothing():
    config, decoder = WAYS["prefix at a pace"]
    model = conditioned(config, decoder)
    for layer in model.decoder.transformer.layers:
        torch.nn.init.zeros_(layer.attention.out.weight)
    tokens = random_tokens(model, 3, 4)
    other = Conditions(COND.labels, text_ids(["hé", "abd", ""]), COND.reference, COND.pace)
    moved = (logits_of(model, tokens, other) - logits_of(model, tokens, COND)).nan_to_num().abs().amax((0, 2, 3))
    assert (moved > 1e-4).tolist() == [True, True, False, False]  # three ids at a pace of .5 are over before step 2


@pytest.mark.parametrize("pace", [None, torch.ones(2), torch.tensor([1.0, 0.0, 1.0])])
def test_a_paced_decoder_asks_for_a_pace(pace):
    config, decoder = WAYS["prefix at a pace"]
    model = conditioned(config, decoder)
    with pytest.raises(ValueError, match="a pace above 0"):
        model.init_state(3, 4, Conditions(COND.labels, COND.text, pace=pace))


def test_rows_of_conditions_keep_their_pace():
    some = COND.rows(slice(1, 3))
    assert some.labels.tolist() == [-1, 0] and some.pace.tolist() == [0.5, 1.0]
    both = Conditions.stack([COND, None])
    assert both.pace.tolist() == [1.5, 0.5, 1, 1, 1, 1]


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
        ({"encoder": READER, "paced": True}, {"cross": 16}, "a text in a prefix"),
        ({"way": "prefix", "text": 0, "paced": True}, {}, "a text in a prefix"),
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
