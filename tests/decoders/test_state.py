"""A state remembers what was committed, and that alone; misuse of it is refused by name."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.state import State


@pytest.fixture(autouse=True)
def no_gradients(request):
    with torch.set_grad_enabled(request.node.name.startswith("test_no_gradients")):
        yield


def filled(rows: int = 3, slots: int = 4, capacity: int = 9) -> tuple[State, torch.Tensor]:
    """A state with one block written; its keys tell row and slot: 10 * row + slot."""
    state = State(rows, capacity, [(2, 3)], torch.zeros(1))
    keys = (10 * torch.arange(rows)[:, None] + torch.arange(slots))[:, None, :, None].expand(-1, 2, -1, 3).float()
    state.open(slots, None, causal=True).extend(0, keys, keys + 100)
    return state, keys


def committed(state: State) -> list[list[int]]:
    """Keys of the committed slots of each row, read through a block of one slot."""
    block = state.open(1, None, causal=True)
    blank = torch.full((state.rows, 2, 1, 3), -1.0)
    keys, values = block.extend(0, blank, blank)
    lengths = state.length.tolist()
    assert all(torch.equal(keys[r, :, :n] + 100, values[r, :, :n]) for r, n in enumerate(lengths))
    assert all((keys[r, :, n] == -1).all() for r, n in enumerate(lengths))
    return [keys[r, 0, :n, 0].int().tolist() for r, n in enumerate(lengths)]


def test_a_chain_commits_without_touching_memory():
    state, _ = filled()
    before = [run.clone() for run in state._memory.runs]
    address = [run.data_ptr() for run in state._memory.runs]
    state.commit(None, torch.tensor([4, 2, 0]))
    assert all(torch.equal(*pair) for pair in zip(before, state._memory.runs, strict=True))
    assert address == [run.data_ptr() for run in state._memory.runs]
    assert committed(state) == [[0, 1, 2, 3], [10, 11], []]


def test_a_path_commits_the_slots_it_names_in_its_order():
    state, _ = filled()
    state.commit(torch.tensor([[0, 2, 3], [3, 1, -1], [7, 7, 7]]), torch.tensor([3, 2, 0]))
    assert committed(state) == [[0, 2, 3], [13, 11], []]


def test_what_was_not_committed_is_overwritten():
    state, keys = filled()
    state.commit(None, torch.tensor([1, 0, 2]))
    state.open(4, None, causal=True).extend(0, keys + 50, keys + 150)
    state.commit(None, 2)
    assert committed(state) == [[0, 50, 51], [60, 61], [20, 21, 70, 71]]


def test_forks_share_memory_and_not_lengths():
    state, keys = filled()
    fork = state.fork()
    fork.commit(None, 2)
    fork.open(2, None, causal=True).extend(0, keys[:, :, :2] + 50, keys[:, :, :2] + 150)
    assert state.length.tolist() == [0, 0, 0]
    state.commit(None, torch.tensor([4, 3, 1]))  # what the fork wrote ahead may be kept
    assert committed(state) == [[0, 1, 50, 51], [10, 11, 60], [20]]
    assert fork.length.tolist() == [2, 2, 2]


def test_selected_rows_are_copies():
    state, keys = filled()
    state.commit(None, torch.tensor([4, 2, 1]))
    beams = state.select(torch.tensor([1, 1, 0, 2]))
    assert committed(beams) == [[10, 11], [10, 11], [0, 1, 2, 3], [20]]
    beams.commit(None, 1)
    assert state.length.tolist() == [4, 2, 1]
    assert committed(state) == [[0, 1, 2, 3], [10, 11], [20]]


def test_rows_are_reordered_in_place():
    state, _ = filled()
    state.commit(None, torch.tensor([4, 2, 1]))
    address = state._memory.runs[0].data_ptr()
    state.reorder(torch.tensor([2, 0, 0]))
    assert state._memory.runs[0].data_ptr() == address
    assert committed(state) == [[20], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_memory_is_allocated_once_however_long_the_output():
    model = small_decoder()
    state = model.init_state(2, 40)
    sizes = [run.untyped_storage().nbytes() for run in state._memory.runs]
    addresses = [run.data_ptr() for run in state._memory.runs]
    for step in range(40):
        model(random_tokens(model, 2, 1, seed=step), state=state)
        state.commit(None, 1)
    assert sizes == [run.untyped_storage().nbytes() for run in state._memory.runs]
    assert addresses == [run.data_ptr() for run in state._memory.runs]


def test_whatever_lies_in_uncommitted_slots_never_leaks():
    model = small_decoder()
    tokens, block = random_tokens(model, 2, 5), random_tokens(model, 2, 3, seed=1)
    outputs = []
    for garbage in (0.0, 1e30):
        state = model.init_state(2, 12)
        model(tokens, state=state)
        state.commit(None, torch.tensor([5, 2]))
        for run in state._memory.runs:
            run[:, :, 0, :, 5:] = garbage
            run[:, :, 1, :, 2:] = garbage
        outputs.append(model(block, state=state).logits)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_random_course_of_blocks_and_commits_equals_a_fresh_prefill(dtype, rounding):
    model = small_decoder(dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    state, kept = model.init_state(3, 60), [torch.empty(0, 2, dtype=torch.int64)] * 3
    for turn in range(8):
        slots = int(torch.randint(1, 6, (), generator=generator))
        block = random_tokens(model, 3, slots, seed=turn)
        model(block, state=state)
        counts = torch.randint(0, slots + 1, (3,), generator=generator)
        state.commit(None, counts)
        kept = [torch.cat((row, new[:n])) for row, new, n in zip(kept, block, counts.tolist(), strict=True)]
    probe = random_tokens(model, 3, 2, seed=99)
    logits = model(probe, state=state).logits
    for row in range(3):
        afresh = model(torch.cat((kept[row], probe[row]))[None]).logits[0, -2:]
        torch.testing.assert_close(logits[row], afresh, rtol=rounding, atol=rounding)


def test_no_gradients_are_kept_with_memory_nor_do_inference_states_refuse_other_modes():
    model = small_decoder()
    tokens = random_tokens(model, 1, 2)
    with torch.inference_mode():
        state = model.init_state(1, 8)
        model(tokens, state=state)
        state.commit(None, 2)
    assert not model(tokens, state=state).logits.requires_grad
    assert model(tokens, state=model.init_state(1, 0)).logits.requires_grad


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda state: state.commit(None, 5), "the last block had 4 slots"),
        (lambda state: state.commit(None, torch.tensor([1, -1, 0])), r"cannot commit \[1, -1, 0\]"),
        (lambda state: state.commit(None, torch.tensor([1, 1])), "to 3 rows"),
        (lambda state: state.commit(torch.tensor([[4], [0], [0]]), 1), "slots that the last block of 4"),
        (lambda state: state.commit(torch.tensor([[0], [0], [0]]), 2), r"an index \[3, 1\] for 3 rows"),
        (lambda state: state.reorder(torch.tensor([0])), "`select` changes their number"),
        (lambda state: torch.enable_grad()(state.open)(1, None, True), "memory keeps no gradients"),
        (lambda state: state.open(10, None, True), "beyond the state's 9 slots"),
        (lambda state: State(0, 4, [(1, 1)], torch.zeros(1)), "at least one row"),
        (lambda state: State(1, 0, [(1, 1)], torch.zeros(1)).commit(None, 1), "the last block had 0 slots"),
        (lambda state: (state.commit(None, 4), state.commit(None, 1)), "the last block had 0 slots"),
    ],
)  # fmt: skip
def test_misuse_is_refused(misuse, message):
    state, _ = filled()
    with pytest.raises(ValueError, match=message):
        misuse(state)
