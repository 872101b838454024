"""Key maps of published text models, as `transformers` stores them, to an `AutoregressiveDecoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.checkpoints.keymaps import Hook, KeyMap, Rule


def llama(sizes: tuple[int, int, int], tied: bool, bias: bool = False, qk_norm: bool = False) -> KeyMap:
    """Llama, Qwen 2 (`bias` of queries, keys and values) and Qwen 3 (`qk_norm`).

    Args:
        sizes: Query heads, key heads, features of a head.
        tied: The head is the table of the embedding, and a file may leave it out.
    """
    heads, kv_heads, head_dim = sizes
    split = _splits([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim])
    theirs, ours = "model.layers.{n}.", "transformer.layers.{n}."
    rules = _ends("model.embed_tokens.weight", tied)
    rules.append(Rule(("model.norm.weight",), ("transformer.norm.weight",)))
    for part in ("weight", "bias") if bias else ("weight",):
        three = tuple(f"{theirs}self_attn.{name}_proj.{part}" for name in "qkv")
        rules.append(Rule(three, (f"{ours}attention.qkv.{part}",), _joined, split))
    pair = theirs + "mlp.gate_proj.weight", theirs + "mlp.up_proj.weight"
    rules.append(Rule(pair, (ours + "up.weight",), _joined, lambda weight: weight.chunk(2)))
    names = {
        "input_layernorm": "attention_norm",
        "self_attn.o_proj": "attention.out",
        "post_attention_layernorm": "mlp_norm",
        "mlp.down_proj": "down",
    }
    if qk_norm:
        names |= {f"self_attn.{name}_norm": f"attention.{name}_norm" for name in "qk"}
    rules += [Rule((f"{theirs}{a}.weight",), (f"{ours}{b}.weight",)) for a, b in names.items()]
    return KeyMap(tuple(rules), _aliases("model.embed_tokens.weight", tied))


def gpt2(tied: bool) -> KeyMap:
    """GPT-2, whose products are stored as [in, out]."""
    theirs, ours = "transformer.h.{n}.", "transformer.layers.{n}."
    names = {"attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out", "mlp.c_fc": "up", "mlp.c_proj": "down"}
    norms = {theirs + "ln_1": ours + "attention_norm", theirs + "ln_2": ours + "mlp_norm"}
    norms |= {"transformer.ln_f": "transformer.norm"}
    rules = _ends("transformer.wte.weight", tied)
    rules.append(Rule(("transformer.wpe.weight",), ("embedding.positions.0.weight",)))
    for a, b in names.items():
        rules.append(Rule((f"{theirs}{a}.weight",), (f"{ours}{b}.weight",), _transposed, _transposed))
        rules.append(Rule((f"{theirs}{a}.bias",), (f"{ours}{b}.bias",)))
    rules += [Rule((f"{a}.{part}",), (f"{b}.{part}",)) for a, b in norms.items() for part in ("weight", "bias")]
    prefix = (r"^(wte|wpe|h|ln_f)\.", r"transformer.\1.")  # as the first releases name them
    masks = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"
    return KeyMap(tuple(rules), (prefix, *_aliases("transformer.wte.weight", tied)), (masks,))


def _ends(table: str, tied: bool) -> list[Rule]:
    ours = ("embedding.table.weight", "heads.product.weight")
    if tied:
        return [Rule((table,), ours, lambda weight: (weight, weight), lambda weight, same: (weight,))]
    return [Rule((table,), ours[:1]), Rule(("lm_head.weight",), ours[1:])]


def _aliases(table: str, tied: bool) -> tuple[tuple[str, str], ...]:
    return ((r"^lm_head\.weight$", table),) if tied else ()


def _joined(*parts: Tensor) -> tuple[Tensor]:
    return (torch.cat(parts),)


def _transposed(weight: Tensor) -> tuple[Tensor]:
    return (weight.T.contiguous(),)


def _splits(sizes: list[int]) -> Hook:
    return lambda weight: weight.split(sizes)
