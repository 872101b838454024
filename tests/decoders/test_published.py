"""Weights of published layouts give the logits and the greedy tokens that `transformers` gives."""

from __future__ import annotations

import json

import pytest
import torch
from published_models import MAPPED, greedy, published
from safetensors.torch import save_file
from transformers import LlamaConfig

from zoo.decoders.published import from_published, keymap, read_config, read_directory


@pytest.fixture(params=MAPPED.values(), ids=list(MAPPED))
def theirs(request):
    return published(request.param)


def test_logits_and_greedy_tokens_are_theirs(theirs):
    ours = from_published(theirs.config.to_dict(), theirs.state_dict())
    ids = torch.randint(37, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=ids, output_hidden_states=True)
        output = ours(ids[..., None])
    assert (output.logits[:, :, 0] - expected.logits).abs().max() < 1e-4
    assert (output.hidden - expected.hidden_states[-1]).abs().max() < 1e-4
    generated = theirs.generate(ids[:, :5], max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert torch.equal(greedy(ours, ids[:, :5], 20), generated[:, 5:])


def test_names_map_back_to_theirs(theirs):
    tensors, names = theirs.state_dict(), keymap(theirs.config.to_dict())
    back = names.write(names.read(tensors))
    tied = {"lm_head.weight"} if theirs.config.tie_word_embeddings else set()
    assert back.keys() == tensors.keys() - tied
    assert all(torch.equal(back[name], tensors[name]) for name in back)


def test_a_downloaded_directory_is_read(tmp_path):
    theirs = published(MAPPED["llama 3"])
    save_file(
        {n: t.clone() for n, t in theirs.state_dict().items() if n != "lm_head.weight"}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert (read_directory(tmp_path)(ids[..., None]).logits[:, :, 0] - theirs(ids).logits).abs().max() < 1e-4
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no .safetensors files"):
        read_directory(tmp_path)


def test_the_first_release_of_gpt_2_is_read_too():
    """Its names lack a prefix, and it holds the causal mask of each layer."""
    theirs = published(MAPPED["gpt-2"])
    old = {name.removeprefix("transformer."): tensor for name, tensor in theirs.state_dict().items()}
    old = {name: tensor for name, tensor in old.items() if name != "lm_head.weight"}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(2)}
    new = from_published(theirs.config.to_dict(), theirs.state_dict()).state_dict()
    assert all(torch.equal(t, new[n]) for n, t in from_published(theirs.config.to_dict(), old).state_dict().items())


def test_older_configs_say_the_same_of_rotary_positions():
    new = MAPPED["llama 3"].to_dict()
    rope = dict(new["rope_parameters"])
    old = {n: v for n, v in new.items() if n != "rope_parameters"} | {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope,
    }
    assert read_config(old) == read_config(new)
    assert read_config(new).transformer.scaling.factor == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "no key map for 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"model_type": "mistral", "sliding_window": 8}, "the last 8 steps alone"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "type 'yarn'"),
    ],
)
def test_what_would_change_results_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read_config(LlamaConfig().to_dict() | changes)
