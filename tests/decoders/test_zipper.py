"""The towers begin as they were, hear of each other what came before, and learn together or with one of them frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_decoders import random_tokens

from zoo import registry
from zoo.configs import to_json
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioning import Conditions
from zoo.decoders.sampling import Law, decode
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.zipper import Zipper, ZipperConfig

TEXT = AutoregressiveConfig((9,), TransformerConfig(12, 3, heads=2, dropout=0.3), specials=1)
SPEECH = AutoregressiveConfig((5, 7), TransformerConfig(16, 4, heads=4, kv_heads=2), specials=1)
BOTH_WAYS = TransformerConfig(16, 3, heads=2, causal=False)


def zipper(gate: float = 1.0, **options: Any) -> Zipper:
    torch.manual_seed(0)
    model = Zipper(ZipperConfig((TEXT, SPEECH), **({"joints": 2} | options))).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for joints in model.towers.joints:
        for joint in joints:
            torch.nn.init.constant_(joint.gate, gate)
    return model


def both(model: Zipper, rows: int = 2, slots: tuple[int, int] = (4, 5)) -> list[torch.Tensor]:
    return [random_tokens(member, rows, count) for member, count in zip(model.towers.members, slots, strict=True)]


def clocks(*times: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(each).expand(2, -1) for each in times]


INTERLEAVED = clocks([0, 1, 5, 6], [2, 3, 4, 7, 8])
TEXT_FIRST = clocks([0, 1, 2, 3], [4, 5, 6, 7, 8])


@pytest.mark.parametrize("times", [INTERLEAVED, TEXT_FIRST])
def test_with_closed_gates_the_towers_are_exactly_themselves(times):
    model = zipper(gate=0.0)
    tokens = both(model)
    for member, given, output in zip(model.towers.members, tokens, model.towers(tokens, times), strict=True):
        assert torch.equal(output.logits, member(given).logits)
    told = model.init_state(2, 0, Conditions(text=tokens[0][..., 0]))
    assert torch.equal(model(tokens[1], state=told).logits, model.towers.members[1](tokens[1]).logits)


def test_a_new_zipper_has_closed_gates():
    gates = [joint.gate for joints in Zipper(ZipperConfig((TEXT, SPEECH), 2)).towers.joints for joint in joints]
    assert len(gates) == 4 and not torch.cat(gates).any()


@pytest.mark.parametrize("side", [0, 1])
def test_a_step_hears_all_that_came_before_it_in_either_tower_and_nothing_behind(side):
    model = zipper()
    tokens = both(model)
    before = [output.logits for output in model.towers(tokens, INTERLEAVED)]
    for slot in range(tokens[side].shape[1]):
        changed = [each.clone() for each in tokens]
        changed[side][:, slot] = (changed[side][:, slot] + 1) % 5
        after = [output.logits for output in model.towers(changed, INTERLEAVED)]
        time = int(INTERLEAVED[side][0, slot])
        for tower in range(2):
            moved = (after[tower] - before[tower]).nan_to_num().abs().amax((0, 2, 3)) > 1e-9
            assert moved.tolist() == [own >= time for own in INTERLEAVED[tower][0].tolist()]


@pytest.mark.parametrize("target", [0, 1])
def test_continuing_one_given_all_of_the_other_is_running_both_with_the_other_in_front(target):
    model = zipper(target=target, source="reference")
    tokens = both(model)
    times = TEXT_FIRST if target else clocks([5, 6, 7, 8], [0, 1, 2, 3, 4])
    expected = model.towers(tokens, times)[target].logits
    state = model.init_state(2, 0, Conditions(reference=tokens[1 - target]))
    torch.testing.assert_close(model(tokens[target], state=state).logits, expected)


def test_turned_it_shares_its_weights():
    model = zipper()
    other = model.turned("reference")
    tokens = both(model)
    state = other.init_state(2, 0, Conditions(reference=tokens[1]))
    straight = zipper(target=0, source="reference")
    expected = straight(tokens[0], state=straight.init_state(2, 0, Conditions(reference=tokens[1]))).logits
    torch.testing.assert_close(other(tokens[0], state=state).logits, expected)
    assert other.towers is model.towers and other.info.cards == (9,) and model.info.cards == (5, 7)


def test_rows_hear_their_own_source_up_to_its_end_and_without_one_are_the_tower_alone():
    model = zipper()
    _, tokens = both(model, rows=3)
    text = torch.tensor([[3, 1, 4, 1], [5, 0, -1, -1], [-1, -1, -1, -1]])
    logits = model(tokens, state=model.init_state(3, 0, Conditions(text=text))).logits
    torch.testing.assert_close(logits[2:], model.towers.members[1](tokens[2:]).logits)
    for row, length in enumerate([4, 2]):
        alone = model.init_state(1, 0, Conditions(text=text[row : row + 1, :length]))
        torch.testing.assert_close(logits[row : row + 1], model(tokens[row : row + 1], state=alone).logits)


def test_greedy_decoding_with_memory_gives_the_tokens_of_decoding_without():
    model = zipper()
    cond = Conditions(text=torch.tensor([[3, 1, 4], [5, -1, -1]]))
    known = random_tokens(model, 2, 1)
    decoded = decode(model, known, 4, Law(temperature=0), cond=cond).codes
    for _ in range(4):
        logits = model(known, state=model.init_state(2, 0, cond)).logits
        known = torch.cat((known, logits[:, -1:].argmax(-1)), 1)
    assert torch.equal(decoded, known[:, 1:])


def test_frozen_towers_keep_weights_and_ways_while_all_else_learns():
    model = zipper(frozen=(True, False)).train()
    tokens = both(model)
    assert torch.equal(model.towers.read(0, tokens[0])[0][0], model.towers.read(0, tokens[0])[0][0])  # no dropout
    sum(model.towers.losses(tokens, INTERLEAVED)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("towers.members.0."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().max() > 0, name


def test_padding_is_read_and_not_asked_for():
    model = zipper()
    tokens = both(model)
    losses = model.towers.losses(tokens, TEXT_FIRST)
    padded = torch.cat((tokens[1], torch.tensor([5, 7]).expand(2, 2, 2)), 1)
    times = clocks([0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10])
    torch.testing.assert_close(model.towers.losses([tokens[0], padded], times), losses)


def test_a_frozen_tower_tells_the_other_what_to_say():
    """Speech repeats the text's two tokens; of 16 pairs, guessing costs log 4 = 1.4 nats a code."""
    torch.manual_seed(0)
    text = AutoregressiveConfig((4,), TransformerConfig(16, 2, heads=2))
    speech = AutoregressiveConfig((4,), TransformerConfig(24, 2, heads=2), specials=1)
    model = Zipper(ZipperConfig((text, speech), joints=1, frozen=(True, False))).train()
    said = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    tokens = torch.cat((torch.full((16, 1), 4), said), 1)[..., None]
    before = [parameter.clone() for parameter in model.towers.members[0].parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        times = [torch.arange(2).expand(16, -1), torch.arange(2, 5).expand(16, -1)]
        _, loss = model.towers.losses([said[..., None], tokens], times)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(map(torch.equal, before, model.towers.members[0].parameters()))
    spoken = decode(model.eval(), tokens[:, :1], 2, Law(temperature=0), cond=Conditions(text=said)).codes
    assert torch.equal(spoken[..., 0], said)


def test_it_is_made_by_name():
    config = ZipperConfig((TEXT, SPEECH), 2, frozen=(True, False))
    model = registry.create("zipper", **to_json(config))
    assert model.config == config and registry.architecture_of(model) == "zipper"
    assert model.info.conditioning == ("text",) and model.info.layers == 4
    assert model.info.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zipper(joints=3), "3 joints between towers of"),
        (lambda: zipper(joints=0), "at least 1"),
        (lambda: zipper(target=0), "source='reference'"),
        (lambda: ZipperConfig((TEXT, AutoregressiveConfig((5,), BOTH_WAYS)), 1), "causal"),
        (lambda: zipper().init_state(2, 0, Conditions(labels=torch.zeros(2).long())), "takes text, and was given"),
        (lambda: zipper().init_state(3, 0, Conditions(text=torch.zeros(2, 4).long())), "for 3 rows"),
        (lambda: zipper().init_state(1, 0, Conditions(text=torch.tensor([[12]]))), "token 12"),
        (lambda: zipper().init_state(1, 0, Conditions(text=torch.zeros(1, 2049).long())), "tower of context 2048"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
