"""Published text models as our own decoder: their `config.json` read, their weights renamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from zoo.checkpoints.keymaps import KeyMap
from zoo.checkpoints.text_keymaps import gpt2, llama
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.rope import RopeScaling
from zoo.decoders.transformer import TransformerConfig

LLAMAS = "llama", "mistral", "qwen2", "qwen3"


def read_directory(directory: Path) -> AutoregressiveDecoder:
    """The decoder of a downloaded model: `config.json` beside `model*.safetensors`, whole or in parts. In eval mode.

    Raises:
        ValueError: As `from_published`, or no weights.
    """
    files = sorted(directory.glob("model*.safetensors"))  # others may hold the same weights under other names
    if not files:
        raise ValueError(f"{directory} has no .safetensors files named model*; convert the weights first")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return from_published(json.loads((directory / "config.json").read_text(encoding="utf-8")), tensors)


def from_published(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AutoregressiveDecoder:
    """The decoder that `transformers` would make of this config and these weights, in their dtype and in eval mode.

    Raises:
        ValueError: An architecture that isn't Llama, Mistral, Qwen 2, Qwen 3 or GPT-2, one of these with an option that
            changes results and that we don't have, or tensors that don't fit.
    """
    model = AutoregressiveDecoder(read_config(config))
    ours = keymap(config).read(dict(tensors))
    try:
        model.to(ours["embedding.table.weight"].dtype).load_state_dict(ours)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return model.eval()


def read_config(config: Mapping[str, Any]) -> AutoregressiveConfig:
    """The shape of the decoder that a `config.json` describes; raises as `from_published`."""
    kind = config.get("model_type")
    if kind == "gpt2":
        return _read_gpt2(config)
    if kind in LLAMAS:
        return _read_llama(config)
    known = ", ".join((*LLAMAS, "gpt2"))
    raise ValueError(f"no key map for {kind!r}, only for {known}; `HuggingFaceDecoder` runs others as they are")


def keymap(config: Mapping[str, Any]) -> KeyMap:
    """Names of the tensors that belong to a `config.json`; raises as `from_published`."""
    shape = read_config(config)
    core = shape.transformer
    if config["model_type"] == "gpt2":
        return gpt2(shape.tied)
    sizes = core.heads, core.kv_heads or core.heads, core.head_features
    return llama(sizes, shape.tied, core.qkv_bias, core.qk_norm)


def _read_llama(config: Mapping[str, Any]) -> AutoregressiveConfig:
    kind = config["model_type"]
    sliding = config.get("use_sliding_window", kind == "mistral") and config.get("sliding_window")
    _refuse(config, attention_bias=False, mlp_bias=False, hidden_act="silu")
    if sliding:
        raise ValueError(f"layers that see the last {sliding} steps alone are not supported; use `HuggingFaceDecoder`")
    rope = {"rope_theta": config.get("rope_theta", 10000.0)}
    rope |= config.get("rope_parameters") or config.get("rope_scaling") or {}
    core = TransformerConfig(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim") or (128 if kind == "qwen3" else None),
        hidden=config["intermediate_size"],
        epsilon=config.get("rms_norm_eps", 1e-6),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        theta=rope["rope_theta"],
        scaling=_scaling(rope),
    )
    tied = config.get("tie_word_embeddings", False)
    return AutoregressiveConfig((config["vocab_size"],), core, config["max_position_embeddings"], tied=tied)


def _read_gpt2(config: Mapping[str, Any]) -> AutoregressiveConfig:
    _refuse(
        config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False,
        activation_function="gelu_new",
    )  # fmt: skip
    core = TransformerConfig(
        width=config["n_embd"],
        layers=config["n_layer"],
        heads=config["n_head"],
        hidden=config.get("n_inner"),
        activation="tanh",
        norm="layer",
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        qkv_bias=True,
        bias=True,
        rope=False,
    )
    tied, context = config.get("tie_word_embeddings", True), config["n_positions"]
    return AutoregressiveConfig((config["vocab_size"],), core, context, learned_positions=True, tied=tied)


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rotary positions of type {kind!r} are not supported; use `HuggingFaceDecoder`")
    original = rope["original_max_position_embeddings"]
    return RopeScaling(rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], original)


def _refuse(config: Mapping[str, Any], **expected: Any) -> None:
    """Options that must have the one value that our decoder knows."""
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} {config[name]!r} is not supported, only {value!r}; use `HuggingFaceDecoder`")
