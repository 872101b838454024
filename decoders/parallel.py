"""What decoders have in common that give all of a sequence in one pass: places made of what is read, and their filling.

A source of M vectors makes `upsampling` x M places, more than the tokens wanted. Each place gets a vector of its own
from the source's vector that it belongs to (Libovicky and Helcl, arXiv 1811.04719), sees all places and all of the
source, and has a law of what stands there. How tokens come from places is what tells these decoders apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import Output
from zoo.decoders.conditioning import ConditionConfig, ConditionEncoder, Conditions
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.result import Exactness, Recorder, Result
from zoo.decoders.state import State


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(AutoregressiveConfig):
    """Shape of a parallel decoder: that of an autoregressive one, whose transformer is not causal.

    Attributes:
        condition: What makes the places, and is attended to by all of them, if the transformer says so or not. Text
            and references need its encoder; most layers belong there.
        upsampling: Places for each vector of it.
        specials: Input-only ids behind each card; the first one is the mask, which says that a place is open.
    """

    condition: ConditionConfig
    upsampling: int
    specials: int = 1

    def __post_init__(self) -> None:
        if self.transformer.causal or self.specials < 1 or self.condition.way != "cross" or self.upsampling < 1:
            raise ValueError(
                "a parallel decoder is not causal, has a mask token, attends to what it reads and makes places of it; "
                "take causal=False, specials=1, way='cross', upsampling=2"
            )


class ParallelDecoder(AutoregressiveDecoder):
    """The parts of the autoregressive decoder, run both ways over places that its state holds."""

    config: ParallelConfig

    def __init__(self, config: ParallelConfig):
        condition = config.condition
        core = replace(config.transformer, cross=condition.width)
        super().__init__(replace(config, transformer=core, conditioning=condition.kinds))
        self.config = config
        self.encoder = ConditionEncoder(condition)
        self.upsample = nn.Linear(condition.width, config.upsampling * core.width)
        self._counted()

    def _counted(self) -> None:
        """Count the weights once more; subclasses that add some call it."""
        self._info = replace(self._info, parameters=sum(parameter.numel() for parameter in self.parameters()))

    def init_state(self, rows: int, max_steps: int, cond: Conditions | None = None) -> State:
        """A state that holds the places. A row of which nothing is given has none.

        Raises:
            ValueError: Nothing to make places of; or steps, as there is only one.
        """
        if max_steps:
            raise ValueError(f"{max_steps} steps to remember: a parallel decoder has only one; take 0")
        read = self.encoder(rows, cond)
        if read.sequence is None:
            raise ValueError(f"a parallel decoder makes its places of {', '.join(self.info.conditioning)}; give it")
        state = self.transformer.init_state(rows, 0, read)
        inputs = self.upsample(read.sequence).unflatten(-1, (self.config.upsampling, -1)).flatten(1, 2)
        state.condition |= {"inputs": [inputs], "places": [read.mask.sum(1) * self.config.upsampling]}
        return state

    def places(self, state: State) -> Int[Tensor, "R"]:
        """How many places each row has; its first ones."""
        return state.condition["places"][0]

    def fill(self, state: State) -> Output:
        """The laws of all places, of which nothing is known yet."""
        inputs = state.condition["inputs"][0]
        masks = torch.tensor(self.config.cards, device=inputs.device)
        return self(masks.expand(*inputs.shape[:2], -1), state=state)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
        depths: Iterable[int] | None = None,
    ) -> Output:
        if state is None or tokens.shape[1] != state.condition["inputs"][0].shape[1]:
            made = "none" if state is None else state.condition["inputs"][0].shape[1]
            raise ValueError(f"tokens for {tokens.shape[1]} places, and {made} were made; see `init_state`")
        x = self.embedding(tokens, positions) + state.condition["inputs"][0]
        seen = inside(self.places(state), tokens.shape[1])[:, None].expand(-1, tokens.shape[1], -1)
        block_mask = seen if block_mask is None else seen & block_mask
        hidden, _ = self.transformer(x, positions, state, block_mask, depths)
        return Output(self.heads(hidden), hidden)

    @abstractmethod
    def nats(self, codes: Int[Tensor, "R S Q"], cond: Conditions) -> Float[Tensor, "R"]:
        """Minus the log-probability of each row's codes: its loss; infinite, without gradient, where none is possible.

        Args:
            codes: -1 behind a row's end.
        """

    @abstractmethod
    def generate(self, cond: Conditions, law: Law | None = None, noise: Noise | None = None) -> Result:
        """The codes of all rows of the condition, in one pass.

        Args:
            law: Of what stands at a place; default: the most probable token. Streams and processors have no meaning
                here.
            noise: Default: `Noise(0)`. A place's depends on row, place and codebook alone.

        Returns:
            A round of the trace is the pass; drafted are places, accepted and emitted steps.
        """


def mean_nats(nats: Float[Tensor, "R"], codes: Int[Tensor, "R S Q"]) -> Float[Tensor, ""]:
    """Nats a code, over the rows that are possible."""
    possible = nats.isfinite()
    count = ((codes >= 0).flatten(1).sum(1) * possible).sum()
    return nats.where(possible, 0).sum() / count.clamp(min=1)


def inside(lengths: Int[Tensor, "R"], places: int) -> Bool[Tensor, "R N"]:
    """Which of so many places each row has."""
    return torch.arange(places, device=lengths.device) < lengths[:, None]


def drawn(
    logits: Float[Tensor, "R N Q V"], law: Law | None, noise: Noise | None
) -> tuple[Int[Tensor, "R N Q"], Float[Tensor, "R N Q"]]:
    """A token for each place, and its log-probability under the law.

    Raises:
        ValueError: A law of several streams, or with processors.
    """
    law, noise = law or Law(temperature=0), noise or Noise(0)
    if len(law.streams) > 1 or law.processors:
        raise ValueError("places are filled at once, each from its own law; leave out streams and processors")
    logp = law(logits)
    at = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    tokens = draw(logp, (Quiet() if law.certain else noise).gumbel(at, *logits.shape[2:]))
    return tokens, logp.gather(-1, tokens[..., None])[..., 0]


def in_line(
    tokens: Int[Tensor, "R N Q"], logp: Float[Tensor, "R N Q"], kept: Bool[Tensor, "R N"], recorder: Recorder
) -> Result:
    """The places that are kept, as one sequence in each row."""
    lengths = kept.sum(1)
    order = (~kept).int().argsort(dim=1, stable=True)[:, : int(lengths.max()), None].expand(-1, -1, tokens.shape[2])
    there = inside(lengths, order.shape[1])[..., None]
    places = torch.full_like(lengths, tokens.shape[1])
    recorder.round(places, lengths, lengths, target=1, draft=0)
    codes, logp = tokens.gather(1, order).where(there, -1), logp.gather(1, order).where(there, 0)
    return Result(codes, lengths, logp, Exactness.APPROXIMATE, recorder.trace())
