"""Pictures scale by scale, all cells of a scale in one pass.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction" (arXiv 2404.02905),
VAR. Its layout is `NextScale`; its classes come in by adaptive norms (`ConditionConfig(pooled=("labels",))`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.decoders.base import DecoderInfo, Output, TokenModel, bare
from zoo.decoders.embedding import CodeEmbedding, CodeHeads
from zoo.decoders.prefix import PrefixTransformer
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.result import Exactness, Recorder, Result
from zoo.decoders.state import State
from zoo.decoders.transformer import Conditioning, TransformerConfig

Scales = tuple[tuple[int, int], ...]


class Canvas(Protocol):
    """How the codes of coarser scales become what a scale reads; a module if it has weights.

    Attributes:
        channels: C.
    """

    channels: int

    def blank(self, rows: int, like: Tensor) -> Float[Tensor, "R C H W"]:
        """A canvas of which nothing is known, of the dtype and device of `like`."""

    def paint(
        self, canvas: Float[Tensor, "R C H W"], codes: Int[Tensor, "R cells Q"], scale: int
    ) -> Float[Tensor, "R C H W"]:
        """The canvas with the codes of that scale, row by row, added."""

    def read(self, canvas: Float[Tensor, "R C H W"], scale: int) -> Float[Tensor, "R cells C"]:
        """What that scale sees of it, row by row."""


class LearnedCanvas(nn.Module):
    """Each code is a learned vector; those of a scale are enlarged to the finest one and added, those read shrunk.

    The way of VAR's tokenizer, without its filters: it works beside any codec, and knows none. A codec's own vectors
    may be copied into `embedding.table.weight`.
    """

    def __init__(self, cards: tuple[int, ...], scales: Scales, channels: int):
        super().__init__()
        self.scales, self.channels = scales, channels
        self.embedding = CodeEmbedding(cards, 0, channels)
        nn.init.normal_(self.embedding.table.weight)  # the canvas is an input, not a sum that others are added to

    def blank(self, rows: int, like: Tensor) -> Float[Tensor, "R C H W"]:
        return like.new_zeros(rows, self.channels, *self.scales[-1])

    def paint(
        self, canvas: Float[Tensor, "R C H W"], codes: Int[Tensor, "R cells Q"], scale: int
    ) -> Float[Tensor, "R C H W"]:
        vectors = self.embedding(codes, codes[..., 0]).transpose(1, 2).unflatten(2, self.scales[scale])
        return canvas + interpolate(vectors, self.scales[-1], mode="bicubic")

    def read(self, canvas: Float[Tensor, "R C H W"], scale: int) -> Float[Tensor, "R cells C"]:
        return interpolate(canvas, self.scales[scale], mode="area").flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class NextScaleConfig:
    """Shape of a next-scale decoder.

    Attributes:
        cards: Tokens of each codebook.
        scales: Rows and columns of each scale, coarse to fine.
        transformer: Its core, not causal. Cells have learned positions; VAR's has no rotary ones.
        channels: Of a learned canvas.
    """

    cards: tuple[int, ...]
    scales: Scales
    transformer: TransformerConfig
    channels: int = 32

    def __post_init__(self) -> None:
        if not self.scales or self.transformer.causal or self.transformer.axes != 1:
            raise ValueError("a next-scale decoder has scales and a core of one axis that is not causal within a scale")


class NextScaleDecoder(TokenModel):
    """Logits at a cell are the law of what stands there, given all coarser scales; `forward` takes whole scales.

    A scale reads the codes of all coarser ones from a canvas, and their hidden states by attention.

    Args:
        canvas: Default: a learned one.
    """

    config_class: ClassVar[type[NextScaleConfig]] = NextScaleConfig

    def __init__(self, config: NextScaleConfig, canvas: Canvas | None = None):
        super().__init__()
        core, counts = config.transformer, [prod(scale) for scale in config.scales]
        self.config = config
        self.canvas = canvas or LearnedCanvas(config.cards, config.scales, config.channels)
        self.ends = torch.tensor(counts).cumsum(0).tolist()
        self.scale: Tensor
        self.register_buffer("scale", torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), False)
        self.enter = nn.Linear(self.canvas.channels, core.width)
        self.begin = nn.Parameter(torch.randn(core.width) * 0.02)
        self.begin_as = nn.Linear(core.adaptive, core.width, bias=False) if core.adaptive else None
        self.places = nn.Embedding(self.ends[-1], core.width)
        self.levels = nn.Embedding(len(counts), core.width)
        for table in (self.places, self.levels):
            nn.init.normal_(table.weight, std=0.02)
        self.transformer = PrefixTransformer(core)
        self.heads = CodeHeads(config.cards, core.width)
        self._info = DecoderInfo(
            cards=config.cards,
            context=self.ends[-1],
            layers=core.depth,
            width=core.width,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            causal=False,
            trees=False,
        )

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Conditioning | None = None) -> State:
        state = self.transformer.init_state(rows, max_steps, cond)
        if self.begin_as is not None and cond is not None and cond.vector is not None:
            state.condition["begin"] = [self.begin_as(cond.vector)[:, None]]
        return state

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        if tokens.shape[1] not in self.ends or (state is not None and state.capacity):
            raise ValueError(
                f"{tokens.shape[1]} cells; `forward` takes those of the first few scales, {self.ends}, and no memory: "
                "go on scale by scale with `step`"
            )
        scales = self.ends.index(tokens.shape[1]) + 1
        canvas, parts = self.canvas.blank(len(tokens), self.begin), []
        for scale, codes in enumerate(tokens.split([prod(size) for size in self.config.scales[:scales]], 1)):
            parts.append(self._input(canvas, scale, state))
            if scale + 1 < scales:
                canvas = self.canvas.paint(canvas, codes, scale)
        level = self.scale[: tokens.shape[1]]
        coarser = (level[:, None] >= level)[None]
        return self._output(
            torch.cat(parts, 1), positions, state, coarser if block_mask is None else coarser & block_mask
        )

    @torch.no_grad()
    def step(self, canvas: Float[Tensor, "R C H W"], scale: int, state: State) -> Output:
        """The laws of all cells of a scale; keys and values are written behind `state.length`, to be committed.

        Args:
            canvas: Painted with all coarser scales.
            state: With memory of these.
        """
        first = self.ends[scale - 1] if scale else 0
        cells = torch.arange(first, self.ends[scale], device=canvas.device).expand(len(canvas), -1)
        return self._output(self._input(canvas, scale, state), cells, state, None)

    def _input(self, canvas: Tensor, scale: int, state: State | None) -> Float[Tensor, "R cells D"]:
        if scale:
            return self.enter(self.canvas.read(canvas, scale))
        begin = self.begin
        if state is not None and "begin" in state.condition:
            begin = begin + state.condition["begin"][0]
        return begin.expand(len(canvas), self.ends[0], -1)

    def _output(
        self, x: Float[Tensor, "R N D"], cells: Int[Tensor, "R N"], state: State | None, mask: Tensor | None
    ) -> Output:
        x = x + self.places(cells) + self.levels(self.scale[cells])
        hidden, _ = self.transformer(x, cells, state, mask)
        return Output(self.heads(hidden), hidden)


@torch.no_grad()
def decode_scales(
    model: TokenModel,
    rows: int,
    law: Law | Sequence[Law] | None = None,
    noise: Noise | None = None,
    cond: Any = None,
) -> Result:
    """Draw all scales, one pass each, with memory of the coarser ones.

    Args:
        model: A next-scale decoder, or a conditioned one.
        law: For all scales, or for each; default: the model's own.
        noise: Default: `Noise(0)`. A cell's depends on row, cell and codebook alone.
        cond: What `model.init_state` takes, of rows x streams of the law, streams first.

    Returns:
        Codes `[R, cells, Q]`, scale by scale; a round of the trace is a scale.

    Raises:
        ValueError: A law with processors, or laws of other scales or streams.
    """
    core: NextScaleDecoder = bare(model)
    noise, scales = noise or Noise(0), len(core.ends)
    laws = [law or Law()] * scales if law is None or isinstance(law, Law) else list(law)
    streams = {len(each.streams) for each in laws}
    if len(laws) != scales or len(streams) != 1 or any(each.processors for each in laws):
        raise ValueError(f"{len(laws)} laws of {sorted(streams)} streams for {scales} scales; processors have no order")
    (copies,) = streams
    state = model.init_state(rows * copies, core.ends[-1], cond)
    canvas, recorder = core.canvas.blank(rows * copies, core.begin), Recorder(rows)
    codes, logp = [], []
    recorder.prefill_seconds = recorder.lap()
    for scale, here in enumerate(laws):
        output = core.step(canvas, scale, state)
        cells = output.logits.shape[1]
        state.commit(None, cells)
        at = torch.arange(core.ends[scale] - cells, core.ends[scale], device=canvas.device).expand(rows, -1)
        running = here.start(at.new_zeros(rows, 1, model.info.codebooks), checked=model.checked)
        found = running(running.combine(output.logits))
        drawn = draw(found, (Quiet() if here.certain else noise).gumbel(at, *found.shape[2:]))
        codes.append(drawn)
        logp.append(found.gather(-1, drawn[..., None])[..., 0])
        if scale + 1 < scales:
            canvas = core.canvas.paint(canvas, drawn.repeat(copies, 1, 1), scale)
        each = torch.full((rows,), cells)
        recorder.round(each, each, each, target=1, draft=0)
    lengths = torch.full((rows,), core.ends[-1])
    return Result(torch.cat(codes, 1), lengths, torch.cat(logp, 1), Exactness.IDENTICAL, recorder.trace())
