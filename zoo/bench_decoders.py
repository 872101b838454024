"""How fast our decoder generates beside `transformers.generate`: same weights and prompts, interleaved in one process.

python -m zoo.bench decoders --json out.json
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.table import Table
from torch import Tensor, nn

from zoo.bench import deliver, head, one_thread, speed, timed
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.fast import WEIGHTS, for_decoding
from zoo.decoders.published import keymap, read_config
from zoo.decoders.sampling import Law, decode
from zoo.decoders.transformer import TransformerConfig
from zoo.registry import load
from zoo.scoring import conditions

STARTER = AutoregressiveConfig((4096,), TransformerConfig(width=512, layers=6, heads=8), context=1024, tied=True)
THEIRS = "transformers"

Way = Callable[[], Int[Tensor, "R S"]]
"""The steps that come behind a prompt."""


def bench_decoders(
    model: str | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    as_json: bool = False,
    *,
    config: AutoregressiveConfig = STARTER,
    batches: tuple[int, ...] = (1, 8),
    prompt: int = 32,
    steps: int = 128,
    repeats: int = 5,
) -> dict[str, Any]:
    """Measure greedy generation by our decoder beside `transformers.generate` on a CPU of one thread; print table or
    JSON.

    Args:
        model: What `zoo.load` takes (default: random weights in the shape of `config`).
        output: Write the result here too, as JSON.
        seed: Of prompts and of random weights.
        batches: Rows to measure with.
        prompt, steps: Tokens that are given, and that are added.
        repeats: Runs of each way; they take turns.

    Raises:
        UserError: transformers is not installed, or the model is none that it has.
    """
    ours = random_decoder(config, seed) if model is None else loaded(model)
    theirs = as_llama(ours)
    with one_thread():
        rows = [_measure(ours, theirs, _prompts(ours, batch, prompt, seed), steps, repeats) for batch in batches]
    facts = conditions(1, "cpu")
    result = {
        **head(facts),
        "versions": facts["versions"] | {THEIRS: version(THEIRS)},
        "what": "greedy generation on one thread, prompt included: wall and CPU seconds of one process, medians of runs"
        " that take turns; CPU seconds leave out the time in which other processes had the processor. ratio: "
        f"{THEIRS} in float32 with its default cache / this way, of each round of turns: median, least and largest."
        f" same_tokens: share of the steps that are those of {THEIRS} up to the first other one",
        "model": model or "random weights",
        "parameters": ours.info.parameters,
        "prompt": prompt,
        "steps": steps,
        "seed": seed,
        "repeats": repeats,
        "rows": rows,
    }
    return deliver(result, [_table(rows)], output, as_json, 120)


def random_decoder(config: AutoregressiveConfig, seed: int) -> AutoregressiveDecoder:
    """A decoder of random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoregressiveDecoder(config).eval()


def loaded(name: str) -> AutoregressiveDecoder:
    """A trained decoder.

    Raises:
        UserError: The model is unknown, or something else.
    """
    model = load(name)
    if not isinstance(model, AutoregressiveDecoder):
        raise UserError(f"{name} is no language model but {type(model).__name__}; there is nothing to compare it with")
    return model


def as_llama(ours: TokenModel) -> nn.Module:
    """A `transformers.LlamaForCausalLM` that holds the weights of our decoder.

    Raises:
        UserError: transformers is not installed, or the decoder is no Llama, having several codebooks, input-only ids
            or another kind of transformer, or is no language model at all.
    """
    if not isinstance(ours, AutoregressiveDecoder):
        raise UserError(f"there is no language model but {type(ours).__name__}; transformers has nothing to compare")
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise UserError("transformers is not installed; pip install 'media-token-zoo[hf]'") from None
    config, core = ours.config, ours.config.transformer
    kv_heads, head_dim, hidden = core.kv_heads or core.heads, core.head_features, core.hidden_features
    theirs = LlamaConfig(
        vocab_size=config.cards[0],
        hidden_size=core.width,
        intermediate_size=hidden,
        num_hidden_layers=core.layers,
        num_attention_heads=core.heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=core.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": core.theta},
        tie_word_embeddings=config.tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    described = theirs.to_dict()
    if read_config(described) != replace(
        config, transformer=replace(core, kv_heads=kv_heads, head_dim=head_dim, hidden=hidden)
    ):
        raise UserError(f"transformers has no model of this shape: {config}")
    llama = LlamaForCausalLM(theirs)
    llama.load_state_dict(keymap(described).write(ours.state_dict()), strict=not config.tied)
    return llama.eval()


def _prompts(ours: TokenModel, batch: int, steps: int, seed: int) -> Int[Tensor, "R P"]:
    return torch.randint(ours.info.cards[0], (batch, steps), generator=torch.Generator().manual_seed(seed))


def _measure(ours: TokenModel, theirs: nn.Module, ids: Tensor, steps: int, repeats: int) -> dict[str, Any]:
    """Every way in turn, and how each compares with the first in the same round."""
    ways = _ways(ours, theirs, ids, steps)
    expected, same = None, {}
    for name, way in ways.items():  # warms up, too
        tokens = way()
        expected = tokens if expected is None else expected
        same[name] = float((tokens == expected).long().cumprod(1).float().mean())
    rounds = [{name: timed(way, ids.device) for name, way in ways.items()} for _ in range(repeats)]
    found = {name: {"same_tokens": same[name]} | speed(rounds, name, THEIRS, len(ids) * steps) for name in ways}
    return {
        "batch": len(ids),
        "load_average": os.getloadavg()[0],
        "different_tokens": int(expected.unique().numel()),
        "ways": found,
    }


def _ways(ours: TokenModel, theirs: nn.Module, ids: Tensor, steps: int) -> dict[str, Way]:
    """What is compared; first the one that the others are compared with."""

    def generated(model: nn.Module, **options: Any) -> Way:
        return lambda: generate(model, ids, steps, **options)

    def continued(model: TokenModel) -> Way:
        return lambda: decode(model, ids[..., None], steps, Law(temperature=0)).codes[..., 0]

    ways = {
        THEIRS: generated(theirs),
        f"{THEIRS}, static cache": generated(theirs, cache_implementation="static"),
        f"{THEIRS}, bfloat16": generated(copy.deepcopy(theirs).bfloat16()),
        "ours": continued(ours),
    }
    for name, dtype in WEIGHTS.items():
        ways[f"ours, for decoding, {name}"] = continued(for_decoding(copy.deepcopy(ours), dtype))
    return ways


def generate(theirs: Any, ids: Int[Tensor, "R P"], steps: int, **options: Any) -> Int[Tensor, "R S"]:
    """What `transformers` puts behind a prompt; greedy unless `options` say otherwise."""
    fixed = {"attention_mask": torch.ones_like(ids), "max_new_tokens": steps, "do_sample": False, "pad_token_id": 0}
    return theirs.generate(ids, **(fixed | options))[:, ids.shape[1] :]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("batch", "way", "tokens / CPU s", "ratio, CPU", "ratio, wall", "same tokens")
    for row in rows:
        for name, way in row["ways"].items():
            ratios = ["{:.2f} ({:.2f} to {:.2f})".format(*way["ratio"][kind]) for kind in ("cpu", "wall")]
            speed = f"{way['tokens_per_cpu_second']:.0f}"
            table.add_row(str(row["batch"]), name, speed, *ratios, f"{way['same_tokens']:.1%}")
    return table
