"""The one transformer of all decoders: embeddings in, hidden states out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, silu

from zoo.decoders.attention import CrossAttention, SelfAttention
from zoo.decoders.norm import RMSNorm
from zoo.decoders.rope import Rope, RopeScaling, Turns
from zoo.decoders.state import Block, Condition, State, open_block


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer. The defaults are Llama's; those of other families are named.

    Attributes:
        width: D.
        layers: Layers that hold weights.
        heads: Heads of queries.
        kv_heads: Heads of keys and values; None: as many.
        head_dim: Features of a head; None: width / heads.
        hidden: Features between the products of the second half of a layer; None: 4 times the width, or for SwiGLU,
            which has three products, 8/3 times, rounded up to a multiple of 32.
        activation: "swiglu" (Shazeer, arXiv 2002.05202), "gelu", or "tanh", GELU by its tanh formula (GPT-2).
        norm: RMS norm, or layer norm with bias (GPT-2); before attention and before the second half.
        epsilon: Of the norms.
        qkv_bias: Queries, keys and values have a bias (Qwen 2, GPT-2).
        bias: All other products have one (GPT-2).
        qk_norm: Queries and keys are normed (Qwen 3).
        rope: Rotary positions; else positions come with the embeddings.
        theta: Base of the rotary wavelengths.
        scaling: Of rotary positions.
        axes: Coordinates of a position.
        causal: A slot sees the block up to itself; else the whole block.
        dropout: Share of the features of each branch that training drops.
        cross: Features of the condition that layers attend to, after attending to themselves; 0: none.
        adaptive: Features of the vector that, behind SiLU and a product, scales, shifts and gates each half of a layer
            (adaptive layer norm, Peebles and Xie, arXiv 2212.09748; VAR, arXiv 2404.02905); 0: none.
        loops: How often the layers between prelude and coda run, with the same weights and memories of their own
            (Universal Transformers, arXiv 1807.03819; recurrent depth, Geiping et al., arXiv 2502.05171).
        prelude, coda: Layers that run once, before and after the loops.
        inject: Each loop starts from a product of what the last one left and what the prelude gave (recurrent depth).
    """

    width: int
    layers: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    activation: Literal["swiglu", "gelu", "tanh"] = "swiglu"
    norm: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-6
    qkv_bias: bool = False
    bias: bool = False
    qk_norm: bool = False
    rope: bool = True
    theta: float = 10000.0
    scaling: RopeScaling | None = None
    axes: int = 1
    causal: bool = True
    dropout: float = 0.0
    cross: int = 0
    adaptive: int = 0
    loops: int = 1
    prelude: int = 0
    coda: int = 0
    inject: bool = False

    def __post_init__(self) -> None:
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"width {self.width} doesn't divide into {self.heads} heads; give head_dim")
        if self.loops < 1 or self.layers <= self.prelude + self.coda:
            outside = f"{self.prelude} before and {self.coda} after"
            raise ValueError(f"nothing to loop: {self.layers} layers, {outside}, {self.loops} loops")

    @property
    def head_features(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def hidden_features(self) -> int:
        return self.hidden or (-(-8 * self.width // 96) * 32 if self.activation == "swiglu" else 4 * self.width)

    @property
    def schedule(self) -> list[int]:
        """For each depth, in the order run, which layer runs there."""
        core = range(self.prelude, self.layers - self.coda)
        return [*range(self.prelude), *(list(core) * self.loops), *range(core.stop, self.layers)]

    @property
    def depth(self) -> int:
        """Layers run in a whole pass, loops counted."""
        return len(self.schedule)


@dataclass(frozen=True)
class Conditioning:
    """What a transformer is conditioned on.

    Attributes:
        sequence: Attended to by every layer; None adds nothing.
        mask: What is there of it; None: all. A row of which nothing is there gets exactly nothing added, as guidance
            needs for rows without condition.
        vector: Of the adaptive norms; None leaves them plain.
    """

    sequence: Float[Tensor, "R M C"] | None = None
    mask: Bool[Tensor, "R M"] | None = None
    vector: Float[Tensor, "R A"] | None = None


NONE = (None,) * 6  # an unconditioned layer's scales, shifts and gates


class Transformer(nn.Module):
    """Pre-norm transformer, with or without memory, loops, a condition, and passes over some of its depths only."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.rope = Rope(config.head_features, config.theta, config.axes, config.scaling) if config.rope else None
        self.inject = nn.Linear(2 * config.width, config.width) if config.inject else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = make_norm(config)
        self.modulation = nn.Linear(config.adaptive, 2 * config.width) if config.adaptive else None
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)  # has the dtype and device of memory
        self.apply(self._initialize)

    def forward(
        self,
        x: Float[Tensor, "R N D"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None = None,
        block_mask: Bool[Tensor, "#R N N"] | None = None,
        depths: Iterable[int] | None = None,
        exits: Collection[int] = (),
        injected: Float[Tensor, "R N D"] | None = None,
    ) -> tuple[Float[Tensor, "R N D"], list[Float[Tensor, "R N D"]]]:
        """Hidden states behind the last norm, and, without it, those that leave each depth in `exits`.

        State and mask are those of `TokenModel.forward`; with memory, call it under `torch.no_grad`.

        Args:
            x: Embeddings; or, if `depths` begins later, what left the depth before.
            depths: Which to run, in order; default: all. The first few are an early exit, a range that begins behind
                them goes on from there, gaps skip layers. Depths that did not run hold no keys of this block: commit
                on a fork, or let a whole pass write the block again.
            exits: Depths whose output is wanted too, for `self.last`.
            injected: What the prelude gave for this block, for passes that begin inside the loops.
        """
        block = open_block(state, x, block_mask, self.config.causal)
        condition = state.condition if state is not None else {}
        turns = self.rope(positions, x.dtype) if self.rope is not None else None
        left, layers = [], list(self.layers)
        for depth in range(len(self.schedule)) if depths is None else depths:
            layer = self.schedule[depth]
            if self.inject is not None and layer == self.config.prelude:
                injected = x if injected is None else injected
                x = self.inject(torch.cat((x, injected), -1))
            x = layers[layer](x, turns, block, depth, *_of_layer(condition, layer))
            if depth in exits:
                left.append(x)
        return self.last(x, state), left

    def last(self, x: Float[Tensor, "R N D"], state: State | None = None) -> Float[Tensor, "R N D"]:
        """The last norm, which heads expect behind them, of what left any depth."""
        modulation = None if state is None else state.condition.get("modulation")
        if modulation is None:
            return self.norm(x)
        return _shifted(self.norm(x), *modulation[-1].chunk(2, -1))

    def init_state(self, rows: int, slots: int, cond: Conditioning | None = None) -> State:
        """See `TokenModel.init_state`.

        Raises:
            ValueError: A condition that this transformer doesn't take, or of another shape.
        """
        config = self.config
        shapes = [(config.kv_heads or config.heads, config.head_features)] * config.depth
        cond = cond or Conditioning()
        condition: dict[str, list[Tensor]] = {}
        if cond.sequence is not None:
            condition |= self._attended(rows, cond.sequence, cond.mask)
        if cond.vector is not None:
            _check_shape("vector", cond.vector, (rows, config.adaptive))
            modules = [*(layer.modulation for layer in self.layers), self.modulation]
            condition["modulation"] = [module(silu(cond.vector))[:, None] for module in modules]
        return State(rows, slots, shapes, self.like, condition)

    def _attended(self, rows: int, sequence: Tensor, mask: Tensor | None) -> Condition:
        _check_shape("sequence", sequence, (rows, sequence.shape[1] if sequence.ndim > 1 else 0, self.config.cross))
        mask = sequence.new_ones(sequence.shape[:2], dtype=torch.bool) if mask is None else mask
        _check_shape("mask", mask, tuple(sequence.shape[:2]))
        present = mask.any(1, keepdim=True)
        bias = torch.zeros_like(mask, dtype=sequence.dtype).masked_fill(present & ~mask, float("-inf"))
        pairs = [layer.cross.condition(sequence, present[..., None].to(sequence.dtype)) for layer in self.layers]
        keys, values = (list(parts) for parts in zip(*pairs, strict=True))
        return {"keys": keys, "values": values, "bias": [bias[:, None, None]]}

    def _initialize(self, module: nn.Module) -> None:
        """Normal weights; the products that end a branch are smaller the deeper the sum that they add to (GPT-2)."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, Layer):
            for product in module.ends():
                nn.init.normal_(product.weight, std=0.02 / (2 * self.config.depth) ** 0.5)
            if module.modulation is not None:
                nn.init.zeros_(module.modulation.weight)
        if module is self and self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)


class Layer(nn.Module):
    """Attention, cross-attention if there is a condition, and two or three products, each beside the identity."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, heads, head_dim = config.width, config.heads, config.head_features
        kv_heads = config.kv_heads or heads
        self.dropout = config.dropout
        self.activation = config.activation
        self.attention_norm = make_norm(config)
        norm = config.epsilon if config.qk_norm else None
        self.attention = SelfAttention(width, heads, kv_heads, head_dim, config.qkv_bias, config.bias, norm)
        self.cross_norm = make_norm(config) if config.cross else None
        self.cross = CrossAttention(width, config.cross, heads, kv_heads, head_dim) if config.cross else None
        self.mlp_norm = make_norm(config)
        fused = 2 if config.activation == "swiglu" else 1  # gate and value
        self.up = nn.Linear(width, fused * config.hidden_features, bias=config.bias)
        self.down = nn.Linear(config.hidden_features, width, bias=config.bias)
        self.modulation = nn.Linear(config.adaptive, 6 * width) if config.adaptive else None

    def forward(
        self,
        x: Float[Tensor, "R N D"],
        turns: Turns | None,
        block: Block,
        depth: int,
        cross: tuple[Tensor, Tensor, Tensor] | None,
        modulation: Float[Tensor, "R 1 six_D"] | None,
    ) -> Float[Tensor, "R N D"]:
        gate, gate_mlp, scale, scale_mlp, shift, shift_mlp = modulation.chunk(6, -1) if modulation is not None else NONE
        attended = self.attention(_shifted(self.attention_norm(x), scale, shift), turns, block, depth)
        x = x + self._dropped(attended, gate)
        if cross is not None:
            x = x + self._dropped(self.cross(self.cross_norm(x), *cross))
        return x + self._dropped(self._mlp(_shifted(self.mlp_norm(x), scale_mlp, shift_mlp)), gate_mlp)

    def ends(self) -> list[nn.Linear]:
        """The products whose outputs are added to the identity."""
        return [self.attention.out, self.down, *([self.cross.out] if self.cross is not None else [])]

    def _mlp(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, value = self.up(x).chunk(2, -1)
            return self.down(silu(gate) * value)
        return self.down(gelu(self.up(x), approximate="tanh" if self.activation == "tanh" else "none"))

    def _dropped(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        if self.training and self.dropout:
            x = dropout(x, self.dropout)
        return x if gate is None else (1 + gate) * x


def make_norm(config: TransformerConfig) -> nn.Module:
    """A norm as this transformer has them; where a condition may scale and shift, it has no weights of its own."""
    kind = RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.width, config.epsilon, elementwise_affine=not config.adaptive)


def _of_layer(
    condition: Condition, layer: int
) -> tuple[tuple[Tensor, Tensor, Tensor] | None, Float[Tensor, "R 1 six_D"] | None]:
    cross = (
        (condition["keys"][layer], condition["values"][layer], condition["bias"][0]) if "keys" in condition else None
    )
    return cross, condition["modulation"][layer] if "modulation" in condition else None


def _shifted(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return x if scale is None else torch.addcmul(shift, x, 1 + scale)


def _check_shape(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(given.shape) != shape or not all(shape):
        raise ValueError(f"the condition's {name} is {list(given.shape)}; this transformer takes {list(shape)}")
