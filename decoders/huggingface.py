"""Any causal language model of `transformers` as a `TokenModel`: its cache is our state."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.state import Block, State, open_block


class HuggingFaceDecoder(TokenModel):
    """Runs the model's own code on our memory, so that commits, forks and rows of unequal length work as everywhere.

    Block masks are given to the model as masks of four dimensions. Not every model obeys these: one that doesn't when
    tried, or that has layers that see a window only, runs chains, row by row if lengths differ, and refuses masks.

    Args:
        model: In eval mode it decodes; with gradients it trains, as any module.

    Raises:
        ValueError: A model that remembers otherwise than by one key and one value a step, such as a state-space model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self._shapes = _memory_shapes(model)
        self._positions_given = "position_ids" in inspect.signature(model.forward).parameters
        config = model.config.get_text_config()
        self._info = DecoderInfo(
            cards=(config.vocab_size,),
            context=getattr(config, "max_position_embeddings", None) or torch.iinfo(torch.int64).max,
            layers=len(self._shapes),
            width=config.hidden_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            trees=self._positions_given and not _has_windows(config) and _obeys_masks(model),
        )

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: None = None) -> State:
        if cond is not None:
            raise ValueError("a causal language model takes no condition; put it into the prompt")
        return State(rows, max_steps, self._shapes, self.model.get_input_embeddings().weight)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        rows, slots, _ = tokens.shape
        lengths = state.length if state is not None and state.capacity else positions.new_zeros(rows)
        if self.info.trees:
            if block_mask is None and slots > 1:  # said in full: without a mask, models guess one from positions
                block_mask = torch.ones(1, slots, slots, dtype=torch.bool, device=tokens.device).tril()
            block = open_block(state, self._like(tokens), block_mask, causal=True)
            return self._forward(tokens, positions, block, block.span - slots)
        if block_mask is not None:
            raise ValueError("this model doesn't obey masks inside a block (info.trees); give it chains only")
        if not self._positions_given and not torch.equal(
            positions, lengths[:, None] + positions.new_ones(slots).cumsum(0) - 1
        ):
            raise ValueError("this model counts its positions itself; leave them out")
        block = open_block(state, self._like(tokens), None, causal=True)
        if isinstance(block.written, tuple):  # all rows are known to be as long
            return self._forward(tokens, positions, block, block.span - slots, masked=False)
        outputs = [
            self._forward(tokens[row : row + 1], positions[row : row + 1], block.row(row, length), length, masked=False)
            for row, length in enumerate(lengths.tolist())
        ]
        return Output(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))

    def _forward(self, tokens: Tensor, positions: Tensor, block: Block, past: int, masked: bool = True) -> Output:
        output = self.model(
            input_ids=tokens[..., 0],
            attention_mask=block.bias if masked else None,
            past_key_values=Cache(layers=[_Layer(block, layer, past) for layer in range(len(self._shapes))]),
            use_cache=True,
            output_hidden_states=True,
            return_dict=True,
            **({"position_ids": positions} if self._positions_given else {}),
        )
        return Output(output.logits[..., None, : self.info.vocabulary].float(), output.hidden_states[-1])

    def _like(self, tokens: Tensor) -> Tensor:
        """`[R, N, 0]` of the model's dtype, for the shape of a block."""
        return self.model.get_input_embeddings().weight.new_empty((*tokens.shape[:2], 0))


class _Layer(CacheLayerMixin):
    """One layer of a block, as `transformers` speaks to a cache.

    Args:
        block: Where keys and values are written, and what comes back.
        layer: Which of its layers.
        past: Slots before the block that come back with it.
    """

    is_sliding = False

    def __init__(self, block: Block, layer: int, past: int):
        super().__init__()
        self.is_initialized = True
        self.block, self.layer, self.past = block, layer, past

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.block.extend(self.layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.past + query_length, 0

    def get_seq_length(self) -> int:
        return self.past

    def get_max_length(self) -> int:
        return -1


@torch.no_grad()
def _memory_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Key heads and their features of each layer, from what one step leaves in the model's own cache."""
    cache = model(input_ids=_ids(model, 1), use_cache=True, return_dict=True).get("past_key_values")
    layers = cache.layers if isinstance(cache, Cache) else [None]
    pairs = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    if any(key is None or value is None or key.shape != value.shape or key.ndim != 4 for key, value in pairs):
        raise ValueError(f"{type(model).__name__} doesn't remember steps by keys and values of one shape")
    return [(key.shape[1], key.shape[3]) for key, _ in pairs]


def _has_windows(config: Any) -> bool:
    """Whether some layers see only part of the past, which masks given from outside would undo."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


@torch.no_grad()
def _obeys_masks(model: PreTrainedModel) -> bool:
    """Whether siblings in a tree don't see each other: nearer to running them apart than to running them as a chain."""
    training = model.training
    model.eval()
    ids = _ids(model, 3)
    see = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool, device=ids.device)
    bias = torch.zeros(1, 1, 3, 3, device=ids.device, dtype=model.get_input_embeddings().weight.dtype)
    bias = bias.masked_fill(~see, float("-inf"))
    try:
        tree = model(input_ids=ids, attention_mask=bias, position_ids=torch.tensor([[0, 1, 1]], device=ids.device))
        apart, chain = (model(input_ids=tokens).logits[:, -1] for tokens in (ids[:, [0, 2]], ids))
    except (ValueError, RuntimeError, TypeError, IndexError):  # how models say that a mask has the wrong shape
        return False
    finally:
        model.train(training)
    return bool((tree.logits[:, -1] - apart).norm() < 0.1 * (chain - apart).norm())


def _ids(model: PreTrainedModel, count: int) -> Tensor:
    weight = model.get_input_embeddings().weight
    return torch.arange(count, device=weight.device)[None] % len(weight)
