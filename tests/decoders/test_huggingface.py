"""Models of `transformers`, run on our state, keep the contract of a `TokenModel`."""

from __future__ import annotations

import pytest
import torch
from published_models import CHAINS, OPT, TREES, greedy, published
from small_decoders import pick, random_tokens
from transformers import MambaConfig

from zoo.decoders.huggingface import HuggingFaceDecoder

EVERY = TREES | CHAINS | {"opt": OPT}


@pytest.fixture(params=EVERY.values(), ids=list(EVERY))
def model(request):
    return HuggingFaceDecoder(published(request.param))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TREES)
def test_models_that_obey_masks_are_found_out(name):
    assert HuggingFaceDecoder(published(TREES[name])).info.trees


@pytest.mark.parametrize("name", CHAINS)
def test_windows_and_alibi_are_found_out_and_refuse_trees(name):
    model = HuggingFaceDecoder(published(CHAINS[name]))
    assert not model.info.trees
    with pytest.raises(ValueError, match="give it chains only"):
        model(random_tokens(model, 1, 2), block_mask=torch.ones(1, 2, 2, dtype=torch.bool))


def test_greedy_tokens_are_those_of_generate(model):
    prompt = torch.randint(37, (2, 5), generator=torch.Generator().manual_seed(1))
    generated = model.model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert torch.equal(greedy(model, prompt, 12), generated[:, 5:])


def test_rows_of_other_lengths_and_any_split_give_the_logits_of_the_whole(model):
    tokens = random_tokens(model, 2, 16)
    state = model.init_state(2, 16)
    for counts in [(3, 1), (0, 4), (2, 1)]:
        index = state.length[:, None] + torch.arange(4)
        logits = model(pick(tokens, index), state=state).logits
        for row in range(2):
            with torch.no_grad():
                alone = model.model(tokens[row : row + 1, : index[row, -1] + 1, 0]).logits
            close(logits[row, :, 0], alone[0, -4:])
        state.commit(None, torch.tensor(counts))


@pytest.mark.parametrize("name", TREES)
def test_a_committed_path_equals_its_prefix_run_afresh(name):
    model = HuggingFaceDecoder(published(TREES[name]))
    parents = [-1, -1, 0, 0, 2]
    see = torch.eye(5, dtype=torch.bool)
    for slot, parent in enumerate(parents):
        see[slot] |= see[parent] if parent >= 0 else see[slot]
    prompt, tree, more = (random_tokens(model, 2, n, seed=n) for n in (4, 5, 3))
    state = model.init_state(2, 16)
    model(prompt, state=state)
    state.commit(None, torch.tensor([4, 2]))
    model(tree, state.length[:, None] + see.sum(1) - 1, state, see[None])
    paths, counts = torch.tensor([[0, 2, 4], [1, -1, -1]]), [3, 1]
    state.commit(paths, torch.tensor(counts))
    logits = model(more, state=state).logits
    for row, (length, count) in enumerate(zip([4, 2], counts, strict=True)):
        afresh = torch.cat((prompt[row, :length], tree[row, paths[row, :count]], more[row]))[None]
        close(logits[row], model(afresh).logits[0, -3:])


def test_hidden_states_are_what_the_head_reads():
    model = HuggingFaceDecoder(published(TREES["llama"]))
    output = model(random_tokens(model, 1, 4))
    close(model.model.lm_head(output.hidden), output.logits[:, :, 0])


def test_gradients_flow_without_memory():
    model = HuggingFaceDecoder(published(TREES["gpt-2"])).train()
    model(random_tokens(model, 1, 4)).logits.logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_model_without_keys_and_values_is_refused():
    mamba = published(MambaConfig(vocab_size=37, hidden_size=16, num_hidden_layers=2, state_size=4))
    with pytest.raises(ValueError, match="doesn't remember steps by keys and values"):
        HuggingFaceDecoder(mamba)


def test_a_condition_is_refused():
    with pytest.raises(ValueError, match="takes no condition"):
        HuggingFaceDecoder(published(TREES["llama"])).init_state(1, 4, "a cat")
