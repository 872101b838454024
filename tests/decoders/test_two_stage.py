"""The first stage says how long and what coarsely, the second adds the rest, both as their own parts would alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from zoo import checkpoint
from zoo.decoders.conditioning import BYTES, ConditionConfig, Conditions, text_ids
from zoo.decoders.sampling import Law, Noise, guidance
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.two_stage import STAGES, TwoStageConfig, TwoStageDecoder
from zoo.token_facts import TokenFacts

SIZES = (6, 5, 4)
COARSE, FINE = TransformerConfig(16, 1, heads=2), TransformerConfig(16, 1, heads=2, causal=False)
CLASSES = ConditionConfig(16, classes=3, way="prefix")
GREEDY = Law(temperature=0)


def two_stages(group: int = 2, sizes: tuple[int, ...] = SIZES, random: bool = True) -> TwoStageDecoder:
    torch.manual_seed(0)
    model = TwoStageDecoder(TwoStageConfig(sizes, COARSE, FINE, group, context=20, condition=CLASSES))
    if not random:
        return model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


COND = Conditions(torch.tensor([2, 0, -1]))


def codes_of(rows: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(size, (rows, frames), generator=generator) for size in SIZES], 1)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_each_stage_is_drawn_from_its_own_model(group):
    """Greedily and without memory: the group that follows, then codebook by codebook all frames at once."""
    model = two_stages(group)
    prompt = codes_of(3, 4)
    codes, lengths = model.generate(3, 6, GREEDY, cond=COND, prompt=prompt)
    known = 4 // group * group
    for row in range(3):
        own = Conditions(COND.labels[row : row + 1])
        length = int(lengths[row])
        steps = model.steps.pack(prompt[row : row + 1, :1, :known])[:, : 1 + known // group]
        while steps.shape[1] < 1 + -(-(known + 6) // group) and not (steps == model.steps.end_id).any():
            logits = model.coarse(steps, state=model.coarse.init_state(1, 0, own)).logits
            steps = torch.cat((steps, logits[:, -1:].argmax(-1)), 1)
        assert length == model.steps.lengths(steps, (known + 6,)).item()
        first = model.steps.unpack(steps, (known + 6,))[0, 0, :length]
        tokens = torch.tensor(SIZES).expand(length, 3).clone()
        tokens[:, 0], tokens[:known] = first, prompt[row, :, :known].T
        for level in (1, 2):
            logits = model.fine(tokens[None], state=model.fine.init_state(1, 0, own)).logits[0]
            tokens[known:, level] = logits[known:, level].argmax(-1)
        assert torch.equal(codes[row, :, :length], tokens.T)
        assert (codes[row, :, length:] == -1).all()


@pytest.mark.parametrize("group", [1, 2])
def test_a_pass_over_whole_sequences_gives_the_law_of_each_code_as_it_is_drawn(group):
    """The most probable codes are those that greedy drawing finds, from where its prompt ends to its own end."""
    model = two_stages(group)
    prompt = codes_of(3, 2)
    codes, lengths = model.generate(3, 10, GREEDY, cond=COND, prompt=prompt)
    tokens = model.layout.pack(codes.clamp(min=0), lengths)
    assert model.info.cards == model.layout.cards == (7, 5, 4)
    likely = model(tokens, state=model.init_state(3, 0, COND)).logits.argmax(-1)
    drawn = (tokens < torch.tensor(model.info.cards)) & (torch.arange(tokens.shape[1]) >= 2)[:, None]
    drawn &= (tokens != model.layout.end_id) | (lengths < 12)[:, None, None]  # who has no room left did not say so
    assert torch.equal(likely[drawn], tokens[drawn]) and (lengths < 12).any()


def test_in_training_each_stage_says_what_it_says_of_whole_sequences():
    model, codes, lengths = two_stages(), codes_of(3, 7), torch.tensor([7, 4, 5])
    asked = model.ask(codes, torch.Generator().manual_seed(0), lengths, COND)
    lengths = model.whole(lengths)
    assert lengths.tolist() == [6, 4, 4]
    tokens = model.layout.pack(codes, lengths)
    logits = model(tokens, state=model.init_state(3, 0, COND)).logits
    first = asked["coarse"].logits.flatten(1, 2)[:, : logits.shape[1]]
    torch.testing.assert_close(first, logits[:, :, 0])
    targets = asked["coarse"].targets.flatten(1)[:, : logits.shape[1]]
    assert torch.equal(targets, tokens[..., 0].where(tokens[..., 0] < 7, -1))
    fine = asked["fine"]
    row, place, book = (fine.targets >= 0).nonzero().unbind(1)
    alone = row[place == 0]  # rows without a prompt are read as whole sequences are
    for each in alone.tolist():
        (level,) = book[row == each].unique().tolist()
        there = logits[each, : lengths[each], level, : max(SIZES)]
        torch.testing.assert_close(fine.logits[each, : lengths[each], level], there)
    assert torch.equal(fine.targets[row, place, book], codes.mT[row, place, book]) and len(alone)


def test_both_stages_are_told_the_same_durations_in_their_own_steps():
    torch.manual_seed(0)
    reads = ConditionConfig(16, text=BYTES, way="prefix", timed=True, encoder=FINE)
    model = TwoStageDecoder(TwoStageConfig(SIZES, COARSE, FINE, group=2, context=20, condition=reads)).eval()
    said = Conditions(text=text_ids(["abc", "d"]))
    coarse, fine = model.conditions(said)
    assert torch.equal(fine.durations, model.durations(said)) and torch.equal(coarse.durations, fine.durations / 2)
    told = Conditions(text=said.text, durations=torch.tensor([[4.0, 2.0, 2.0], [6.0, 0.0, 0.0]]))
    coarse, fine = model.conditions(told)
    assert torch.equal(fine.durations, told.durations) and coarse.durations[1, 0] == 3
    assert model.info.conditioning == ("text", "durations") and model.duration_loss(told) > 0
    assert model.coarse.encoder.timing is model.fine.encoder.timing


@pytest.mark.parametrize("timed", [False, True])
def test_both_stages_may_be_told_by_one_encoder(timed, tmp_path):
    reads = ConditionConfig(16, text=BYTES, way="prefix", timed=timed, encoder=FINE)
    configs = (TwoStageConfig(SIZES, COARSE, FINE, 1, 20, reads, shared) for shared in (False, True))
    own, model = (TwoStageDecoder(config).eval() for config in configs)
    encoder = model.coarse.encoder
    assert model.fine.encoder is encoder and own.fine.encoder is not own.coarse.encoder
    twice = sum(weight.numel() for name, weight in encoder.named_parameters() if not name.startswith("timing"))
    assert model.info.parameters == own.info.parameters - twice
    model.tokens = TokenFacts(model.layout)
    checkpoint.save(model, tmp_path)
    assert not any(name.startswith("fine.encoder") for name in load_file(tmp_path / checkpoint.WEIGHTS))
    again = checkpoint.load_directory(tmp_path)
    assert again.config == model.config and again.fine.encoder is again.coarse.encoder
    tokens, told = model.layout.pack(codes_of(2, 5)), Conditions(text=text_ids(["abc", "d"]))
    said = [each(tokens, state=each.init_state(2, 0, told)).logits for each in (model, again)]
    assert torch.equal(*said)


def test_what_is_drawn_depends_on_seed_and_row_alone():
    model = two_stages()
    codes, lengths = model.generate(3, 6, noise=Noise(3), cond=COND, fine_law=Law())
    alone, length = model.generate(1, 6, noise=Noise(3, rows=(1,)), cond=Conditions(COND.labels[1:2]), fine_law=Law())
    assert length == lengths[1] and torch.equal(alone[0], codes[1, :, : int(length)])


def test_a_row_that_ends_at_once_has_no_codes():
    model = two_stages()
    with torch.no_grad():
        model.coarse.decoder.heads.product.weight[model.steps.end_id] *= 100
    runs = [model.generate(3, 6, noise=Noise(seed), cond=COND) for seed in range(4)]
    assert any(0 in lengths for _, lengths in runs) and any(lengths.max() > 0 for _, lengths in runs)
    for codes, lengths in runs:
        assert codes.shape == (3, 3, lengths.max())
        there = torch.arange(codes.shape[2]) < lengths[:, None]
        assert torch.equal((codes >= 0).all(1), there) and torch.equal((codes >= 0).any(1), there)


def test_gradients_of_both_losses_reach_every_weight():
    model = two_stages().train()
    asked = model.ask(codes_of(3, 7), torch.Generator().manual_seed(0), torch.tensor([7, 4, 5]), COND)
    sum(each.loss for each in asked.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_what_lies_behind_the_length_of_a_row_does_not_count():
    model = two_stages()
    codes, lengths = codes_of(2, 6), torch.tensor([6, 3])  # the second is cut to a whole group of two
    other = codes.clone()
    other[1, :, 2:] = 0
    first, second = (model.ask(each, torch.Generator().manual_seed(0), lengths) for each in (codes, other))
    for stage in STAGES:
        torch.testing.assert_close(first[stage].loss, second[stage].loss)


def test_requests_that_do_not_fit_are_refused():
    model = two_stages()
    with pytest.raises(ValueError, match="ask for fewer"):
        model.generate(1, 21)
    with pytest.raises(ValueError, match="a prompt"):
        model.generate(1, 4, prompt=codes_of(2, 4))
    with pytest.raises(ValueError, match="second stage"):
        TwoStageConfig((6,), COARSE, FINE)
    with pytest.raises(ValueError, match="the first stage is causal, the second is not"):
        TwoStageConfig((6, 5), COARSE, COARSE)
    with pytest.raises(ValueError, match="takes whole sequences; take 0"):
        model.init_state(1, 4)
    with pytest.raises(ValueError, match="leave the block mask out"):
        model(torch.zeros(1, 2, 3, dtype=torch.int64), block_mask=torch.ones(1, 2, 2, dtype=torch.bool))


def test_both_stages_learn_what_their_class_says_and_how_long():
    """Class c lasts 2 c + 2 frames, whose codes count from c and from 2 c; guessing costs 1.1 nats a code."""
    model = two_stages(sizes=(3, 3), random=False).train()
    labels, lengths, time = torch.arange(3), torch.tensor([2, 4, 6]), torch.arange(6)
    codes = torch.stack([(labels[:, None] + time) % 3, (2 * labels[:, None] + time) % 3], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        cond = Conditions(labels).dropped(0.1, Noise(0), step)
        asked = model.ask(codes, generator, lengths, cond)
        optimizer.zero_grad()
        sum(each.loss for each in asked.values()).backward()
        optimizer.step()
    found, found_lengths = model.eval().generate(3, 8, Law(0, streams=guidance(1.5)), cond=Conditions(labels))
    assert torch.equal(found_lengths, lengths)
    assert torch.equal(found, codes.where(time < lengths[:, None, None], -1))
