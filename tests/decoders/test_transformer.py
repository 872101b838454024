"""The transformer equals a plain reference, however its input is cut, masked, laid out in a tree or conditioned."""

from __future__ import annotations

import pytest
import torch
from dense import dense_logits
from small_decoders import pick, random_tokens, small_decoder

from zoo.decoders.autoregressive import PartialDecoder
from zoo.decoders.transformer import Conditioning, TransformerConfig

SHAPES = {
    "llama": {},
    "qwen 3": {"qk_norm": True, "head_dim": 6, "tied": True},
    "gpt-2": {
        "kv_heads": None, "norm": "layer", "activation": "tanh", "qkv_bias": True, "bias": True, "rope": False,
        "learned_positions": True, "tied": True, "context": 32,
    },
    "special ids, gelu": {"specials": 2, "tied": True, "activation": "gelu", "head_dim": 8, "hidden": 20},
    "one codebook": {"cards": (13,), "specials": 1, "head_bias": True},
    "looped": {"loops": 3, "prelude": 1, "inject": True},
    "looped, with a coda": {"loops": 2, "coda": 1},
}  # fmt: skip


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES))
def model(request):
    return small_decoder(**request.param)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-5)


def causal(slots):
    return torch.ones(slots, slots, dtype=torch.bool).tril()


def test_a_whole_sequence_equals_the_reference(model):
    tokens = random_tokens(model, 2, 6)
    logits = model(tokens).logits
    for row in range(2):
        close(logits[row], dense_logits(model, tokens[row], torch.arange(6), causal(6)))


def test_any_split_into_blocks_gives_the_same_logits(model):
    tokens = random_tokens(model, 2, 9)
    whole = model(tokens).logits
    for sizes in [(9,), (1,) * 9, (4, 1, 3, 1), (2, 7)]:
        state, parts = model.init_state(2, 9), []
        for part in tokens.split(sizes, 1):
            parts.append(model(part, state=state).logits)
            state.commit(None, part.shape[1])
        close(torch.cat(parts, 1), whole)
        assert state.length.tolist() == [9, 9]


def test_rows_of_other_lengths_do_not_matter(model):
    """Row 0 advances by 3, 0 and 2 steps, row 1 by 1, 4 and 1; each block of 4 continues its own row."""
    tokens = random_tokens(model, 2, 16)
    state = model.init_state(2, 16)
    for counts in [(3, 1), (0, 4), (2, 1)]:
        index = state.length[:, None] + torch.arange(4)
        logits = model(pick(tokens, index), state=state).logits
        for row in range(2):
            alone = model(tokens[row : row + 1, : index[row, -1] + 1]).logits
            close(logits[row], alone[0, -4:])
        state.commit(None, torch.tensor(counts))
    assert state.length.tolist() == [5, 6]


TREE = torch.tensor([-1, -1, 0, 0, 1, 2])  # parents: two roots, of which the first has two children


def ancestry(parents):
    see = torch.eye(len(parents), dtype=torch.bool)
    for slot, parent in enumerate(parents.tolist()):
        if parent >= 0:
            see[slot] |= see[parent]
    return see


def test_a_tree_behind_rows_of_unequal_length_equals_the_reference(model):
    see = ancestry(TREE)
    tokens = random_tokens(model, 2, 5)
    tree = random_tokens(model, 2, len(TREE), seed=1)
    state = model.init_state(2, 16)
    model(tokens, state=state)
    state.commit(None, torch.tensor([5, 2]))
    positions = state.length[:, None] + see.sum(1) - 1
    logits = model(tree, positions, state, see[None]).logits
    for row, length in enumerate([5, 2]):
        visible = causal(length + len(TREE))
        visible[length:, length:] = see
        everything = torch.cat((tokens[row, :length], tree[row]))
        dense = dense_logits(model, everything, torch.cat((torch.arange(length), positions[row])), visible)
        close(logits[row], dense[length:])


def test_a_committed_path_of_a_tree_equals_its_prefix_run_afresh(model):
    """The path 0, 2, 5 of row 0; of row 1, the path 1, 4 is shorter; row 2 accepts nothing."""
    see = ancestry(TREE)
    prompt, tree, more = (random_tokens(model, 3, n, seed=n) for n in (4, len(TREE), 3))
    state = model.init_state(3, 16)
    model(prompt, state=state)
    state.commit(None, torch.tensor([4, 3, 2]))
    model(tree, state.length[:, None] + see.sum(1) - 1, state, see[None])
    paths, counts = torch.tensor([[0, 2, 5], [1, 4, -1], [-1, -1, -1]]), [3, 2, 0]
    state.commit(paths, torch.tensor(counts))
    assert state.length.tolist() == [7, 5, 2]
    logits = model(more, state=state).logits
    for row, (length, count) in enumerate(zip([4, 3, 2], counts, strict=True)):
        afresh = torch.cat((prompt[row, :length], tree[row, paths[row, :count]], more[row]))[None]
        close(logits[row], model(afresh).logits[0, -3:])


def test_greedy_decoding_with_memory_gives_the_tokens_of_decoding_without(model):
    tokens = random_tokens(model, 2, 3)
    state = model.init_state(2, 12)
    block, found = tokens, tokens
    for _ in range(9):
        block_logits = model(block, state=state).logits
        state.commit(None, block.shape[1])
        whole_logits = model(found).logits
        assert torch.equal(block_logits[:, -1].argmax(-1), whole_logits[:, -1].argmax(-1))
        block = block_logits[:, -1:].argmax(-1)
        found = torch.cat((found, block), 1)


def test_bidirectional_slots_see_the_whole_block_and_the_past():
    model = small_decoder(causal=False)
    tokens = random_tokens(model, 2, 6)
    close(model(tokens).logits[1], dense_logits(model, tokens[1], torch.arange(6), torch.ones(6, 6, dtype=torch.bool)))
    state = model.init_state(2, 12)
    model(tokens[:, :4], state=state)
    state.commit(None, torch.tensor([4, 2]))
    logits = model(pick(tokens, torch.tensor([[4, 5], [2, 3]])), state=state).logits
    for row, length in enumerate([4, 2]):
        visible = torch.ones(6, 6, dtype=torch.bool)  # of the four slots that ran as one block, and of the two
        visible[:4, 4:] = False
        visible[4:, length:4] = False
        positions = torch.cat((torch.arange(4), torch.tensor([length, length + 1])))
        run = torch.cat((tokens[row, :4], tokens[row, length : length + 2]))
        close(logits[row], dense_logits(model, run, positions, visible)[4:])


def test_positions_in_a_grid_turn_their_own_share_of_the_features():
    model = small_decoder(axes=2, head_dim=8)
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    tokens = random_tokens(model, 2, 6)
    logits = model(tokens, grid.expand(2, -1, -1)).logits
    close(logits[0], dense_logits(model, tokens[0], grid, causal(6)))
    moved = model(tokens, grid.flip(-1).expand(2, -1, -1)).logits
    assert (moved - logits).abs().nan_to_num().max() > 1e-2


def test_learned_positions_in_a_grid_are_summed():
    model = small_decoder(axes=2, rope=False, learned_positions=True, context=4)
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    tokens = random_tokens(model, 1, 6)
    close(model(tokens, grid[None]).logits[0], dense_logits(model, tokens[0], grid, causal(6)))


@pytest.fixture
def conditioned():
    return small_decoder(cross=5, adaptive=6)


def conditions(rows):
    torch.manual_seed(3)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])[:rows]
    return Conditioning(torch.randn(rows, 4, 5).double(), mask, torch.randn(rows, 6).double())


@pytest.mark.parametrize("room", [0, 8])
def test_conditions_reach_every_row_with_and_without_memory(conditioned, room):
    cond = conditions(2)
    tokens = random_tokens(conditioned, 2, 5)
    logits = conditioned(tokens, state=conditioned.init_state(2, room, cond)).logits
    for row in range(2):
        own = Conditioning(cond.sequence[row : row + 1], cond.mask[row : row + 1], cond.vector[row : row + 1])
        close(logits[row], dense_logits(conditioned, tokens[row], torch.arange(5), causal(5), own))


def test_a_row_whose_condition_is_masked_away_is_a_row_without_condition(conditioned):
    cond = conditions(2)
    cond = Conditioning(cond.sequence, torch.tensor([[False] * 4, [True] * 4]))
    tokens = random_tokens(conditioned, 2, 5)
    logits = conditioned(tokens, state=conditioned.init_state(2, 8, cond)).logits
    plain = conditioned(tokens).logits
    close(logits[0], plain[0])
    assert (logits[1] - plain[1]).abs().nan_to_num().max() > 1e-2


def test_a_condition_follows_its_row_when_rows_are_selected(conditioned):
    tokens = random_tokens(conditioned, 2, 5)
    state = conditioned.init_state(2, 8, conditions(2))
    straight = conditioned(tokens, state=state).logits
    chosen = state.select(torch.tensor([1, 1, 0]))
    close(conditioned(tokens[[1, 1, 0]], state=chosen).logits, straight[[1, 1, 0]])


def test_an_early_exit_is_the_head_on_a_shallower_transformer():
    model = small_decoder()
    tokens = random_tokens(model, 2, 6)
    first, second, last = model.exits(tokens, torch.arange(6).expand(2, -1), depths=(0, 1))
    close(last.logits, model(tokens).logits)
    shallow = small_decoder(layers=2)
    shallow.load_state_dict({name: value for name, value in model.state_dict().items() if "layers.2." not in name})
    close(second.logits, shallow(tokens).logits)
    close(PartialDecoder(model, range(2))(tokens).logits, shallow(tokens).logits)
    assert (first.logits - second.logits).abs().nan_to_num().max() > 1e-2


@torch.no_grad()
def test_a_pass_goes_on_from_where_an_early_exit_left():
    model = small_decoder(loops=2, prelude=1, inject=True)
    core = model.transformer
    tokens, positions = random_tokens(model, 2, 6), torch.arange(6).expand(2, -1)
    x = model.embedding(tokens, positions)
    whole, _ = core(x, positions)
    state = core.init_state(2, 6)
    _, (injected,) = core(x, positions, state, depths=range(1), exits=(0,))
    _, (left,) = core(injected, positions, state, depths=range(1, 3), exits=(2,), injected=injected)
    rest, _ = core(left, positions, state, depths=range(3, 5), injected=injected)
    torch.testing.assert_close(rest, whole)


def test_an_exit_drafts_on_a_fork_and_the_whole_decoder_overwrites_it():
    model = small_decoder()
    draft = PartialDecoder(model, (0, 2))
    prompt, block = random_tokens(model, 2, 4), random_tokens(model, 2, 3, seed=1)
    state = model.init_state(2, 10)
    model(prompt, state=state)
    state.commit(None, 4)
    fork = state.fork()
    for slot in range(3):
        draft(block[:, slot : slot + 1], state=fork)
        fork.commit(None, 1)
    assert (state.length.tolist(), fork.length.tolist()) == ([4, 4], [7, 7])
    close(model(block, state=state).logits, model(torch.cat((prompt, block), 1)).logits[:, 4:])
    state.commit(None, 3)
    close(model(block, state=state).logits, model(torch.cat((prompt, block, block), 1)).logits[:, 7:])


@pytest.mark.parametrize("loops", [1, 2])
def test_gradients_reach_every_weight_and_the_condition(loops):
    model = small_decoder(cross=5, adaptive=6, loops=loops, inject=loops > 1, qk_norm=True).train()
    cond = conditions(2)
    sequence, vector = cond.sequence.requires_grad_(), cond.vector.requires_grad_()
    state = model.init_state(2, 0, Conditioning(sequence, cond.mask, vector))
    model(random_tokens(model, 2, 5), state=state).logits.logsumexp(-1).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert sequence.grad[cond.mask].abs().min() > 0 and vector.grad.abs().min() > 0
    assert not sequence.grad[~cond.mask].any()


def test_dropout_acts_in_training_alone():
    model = small_decoder(dropout=0.5)
    tokens = random_tokens(model, 1, 4)
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


def test_frequencies_stay_float32_in_a_model_of_fewer_bits():
    model = small_decoder().bfloat16()
    assert model.transformer.rope.frequencies.dtype == torch.float32
    assert model(random_tokens(model, 1, 4)).logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, "give head_dim"),
        ({"prelude": 2, "coda": 1}, "nothing to loop"),
        ({"kv_heads": 3}, "don't divide into groups"),
        ({"axes": 2, "head_dim": 6}, "multiple of 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_decoder(**options)


def test_layers_outside_the_loop_run_once():
    assert TransformerConfig(8, layers=4, heads=1, loops=3, prelude=1, coda=1).schedule == [0, 1, 2, 1, 2, 1, 2, 3]
