"""Tiny random models of `transformers`, with weights large enough for mistakes to show."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

COMMON = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip

MAPPED = {
    "llama": LlamaConfig(**COMMON),
    "llama 3": LlamaConfig(**COMMON, head_dim=8, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "mistral": MistralConfig(**COMMON, sliding_window=None),
    "qwen 2": Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen 3": Qwen3Config(**COMMON, head_dim=8),
    "gpt-2": GPT2Config(vocab_size=37, n_embd=16, n_layer=2, n_head=4, n_positions=64),
}
TREES = MAPPED | {"gpt-neox": GPTNeoXConfig(**COMMON)}
CHAINS = {
    "window of 4": MistralConfig(**COMMON, sliding_window=4),
    "windows in turn": Gemma2Config(**COMMON, head_dim=4, sliding_window=4),
    "alibi": BloomConfig(vocab_size=37, hidden_size=16, n_layer=2, n_head=4),
}
OPT = OPTConfig(
    vocab_size=37, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16,
    max_position_embeddings=64,
)  # fmt: skip


def published(config: Any, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.eos_token_id = None
    return model


def greedy(model: Any, prompt: torch.Tensor, steps: int) -> torch.Tensor:
    """Our loop: `[R, S]` -> the `[R, steps]` tokens that follow."""
    state = model.init_state(len(prompt), prompt.shape[1] + steps)
    block, found = prompt[..., None], []
    for _ in range(steps):
        logits = model(block, state=state).logits
        state.commit(None, block.shape[1])
        block = logits[:, -1:].argmax(-1)
        found.append(block[..., 0])
    return torch.cat(found, 1)
