"""The transformer once more, written plainly: one slot at a time, one head at a time, no cache, no fused kernels.

It takes any visibility between slots, so that caches, masks and trees can be held against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.decoders.autoregressive import AutoregressiveDecoder
from zoo.decoders.transformer import Conditioning


def dense_logits(
    model: AutoregressiveDecoder, tokens: Tensor, positions: Tensor, visible: Tensor, cond: Conditioning | None = None
) -> Tensor:
    """Logits `[S, Q, V]` of ONE row: tokens `[S, Q]`, positions `[S]` or `[S, axes]`, visible bool `[S, S]`."""
    config, weights = model.config.transformer, dict(model.named_parameters())
    cond = cond or Conditioning()

    def product(name: str, x: Tensor) -> Tensor:
        bias = weights.get(f"{name}.bias")
        return x @ weights[f"{name}.weight"].T + (0 if bias is None else bias)

    def norm(name: str, x: Tensor, modulation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        if config.norm == "rms":
            x = x / (x.square().mean(-1, keepdim=True) + config.epsilon).sqrt()
        else:
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + config.epsilon).sqrt()
        x = x * weights.get(f"{name}.weight", 1.0) + weights.get(f"{name}.bias", 0.0)
        return x if modulation is None else x * (1 + modulation[0]) + modulation[1]

    def modulation(name: str, parts: int) -> list[Tensor | None]:
        if cond.vector is None:
            return [None] * parts
        vector = cond.vector[0] / (1 + (-cond.vector[0]).exp())
        return list(product(name, vector).view(parts, -1))

    def turned(x: Tensor, position: Tensor) -> Tensor:
        """One head of one slot: feature i and i + E/2 are a point that turns."""
        if not config.rope:
            return x
        pairs = len(x) // 2
        share = pairs // config.axes
        result = x.clone()
        for pair in range(pairs):
            coordinate = float(position.reshape(-1)[pair // share])
            frequency = torch.tensor(1 / config.theta ** (2 * (pair % share) / (2 * share)), dtype=torch.float32)
            angle = float(torch.tensor(coordinate) * frequency)
            a, b = x[pair], x[pair + pairs]
            result[pair] = a * math.cos(angle) - b * math.sin(angle)
            result[pair + pairs] = b * math.cos(angle) + a * math.sin(angle)
        return result

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        scores = (k @ q) / math.sqrt(len(q))
        weights = torch.where(seen, (scores - scores[seen].max()).exp(), 0.0)
        return (weights / weights.sum()) @ v

    heads, kv_heads, size = config.heads, config.kv_heads or config.heads, config.head_features
    x = sum(
        weights["embedding.table.weight"][tokens[:, book] + model.embedding.first[book]]
        for book in range(tokens.shape[1])
    )
    if model.config.learned_positions:
        for axis in range(config.axes):
            x = x + weights[f"embedding.positions.{axis}.weight"][positions.reshape(len(x), -1)[:, axis]]
    injected = x
    for number in config.schedule:
        at = f"transformer.layers.{number}"
        if config.inject and number == config.prelude:
            injected = x if injected is None else injected
            x = product("transformer.inject", torch.cat((x, injected), -1))
        elif number < config.prelude:
            injected = None  # that which leaves the prelude is
        gate, gate_mlp, scale, scale_mlp, shift, shift_mlp = modulation(f"{at}.modulation", 6)
        normed = norm(f"{at}.attention_norm", x, None if scale is None else (scale, shift))
        qkv = product(f"{at}.attention.qkv", normed).view(len(x), heads + 2 * kv_heads, size)
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
        if config.qk_norm:
            q, k = norm(f"{at}.attention.q_norm", q), norm(f"{at}.attention.k_norm", k)
        q = torch.stack([torch.stack([turned(h, p) for h in slot]) for slot, p in zip(q, positions, strict=True)])
        k = torch.stack([torch.stack([turned(h, p) for h in slot]) for slot, p in zip(k, positions, strict=True)])
        k, v = (part[:, torch.arange(heads) * kv_heads // heads] for part in (k, v))
        mixed = torch.stack(
            [torch.cat([attend(q[i, h], k[:, h], v[:, h], see) for h in range(heads)]) for i, see in enumerate(visible)]
        )
        branch = product(f"{at}.attention.out", mixed)
        x = x + (branch if gate is None else (1 + gate) * branch)
        if cond.sequence is not None and (cond.mask is None or cond.mask[0].any()):
            source = cond.sequence[0] if cond.mask is None else cond.sequence[0][cond.mask[0]]
            kv = (source @ weights[f"{at}.cross.kv.weight"].T).view(len(source), 2, kv_heads, size)
            q = product(f"{at}.cross.q", norm(f"{at}.cross_norm", x)).view(len(x), heads, size)
            all_seen = torch.ones(len(source), dtype=torch.bool)
            mixed = torch.stack(
                [
                    torch.cat(
                        [attend(s[h], *kv[:, :, h * kv_heads // heads].unbind(1), all_seen) for h in range(heads)]
                    )
                    for s in q
                ]
            )
            x = x + product(f"{at}.cross.out", mixed)
        inner = product(f"{at}.up", norm(f"{at}.mlp_norm", x, None if scale_mlp is None else (scale_mlp, shift_mlp)))
        if config.activation == "swiglu":
            gated, value = inner.chunk(2, -1)
            inner = gated / (1 + (-gated).exp()) * value
        elif config.activation == "gelu":
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        else:
            inner = inner * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        branch = product(f"{at}.down", inner)
        x = x + (branch if gate_mlp is None else (1 + gate_mlp) * branch)
    scale, shift = modulation("transformer.modulation", 2)
    x = norm("transformer.norm", x, None if scale is None else (scale, shift))
    flat = product("heads.product", x) if not model.config.tied else x @ weights["embedding.table.weight"].T
    parts = flat.split(model.heads.sizes, -1)
    logits = flat.new_full((len(x), len(parts), max(model.config.cards)), -math.inf)
    for book, (part, card) in enumerate(zip(parts, model.config.cards, strict=True)):
        logits[:, book, :card] = part[:, :card]
    return logits
