"""A codec language model in two stages: the first codebook step by step, each of the others in one pass.

Wang et al., "Neural Codec Language Models are Zero-Shot Text to Speech Synthesizers" (arXiv 2301.02111), VALL-E; Chen
et al., "VALL-E 2" (arXiv 2406.05370), whose first stage takes several frames a step. As a whole it goes through the
layout `CoarseFirst`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.conditioning import ConditionConfig, ConditionedDecoder, Conditions
from zoo.decoders.embedding import lengthened
from zoo.decoders.layouts import Grouped, Layout, Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, Masking, masked_loss
from zoo.decoders.parallel import inside
from zoo.decoders.sampling.decode import decode
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.masked import decode_masked
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness, Recorder, Result
from zoo.decoders.state import State
from zoo.decoders.transformer import TransformerConfig

STAGES = ("coarse", "fine")


@dataclass(frozen=True)
class TwoStageConfig:
    """Shape of a two-stage decoder.

    Attributes:
        sizes: Codes of each codebook, coarse to fine.
        coarse: Transformer of the first stage, causal.
        fine: Of the second, not causal.
        group: Frames of a step of the first stage.
        context: Frames that it is made for, those of a prompt and the end included.
        condition: What both stages are conditioned on; None: nothing.
        shared: Both read it by the same encoder, which saves its weights once; else each has an encoder of its own.
    """

    sizes: tuple[int, ...]
    coarse: TransformerConfig
    fine: TransformerConfig
    group: int = 1
    context: int = 2048
    condition: ConditionConfig | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if len(self.sizes) < 2:
            raise ValueError(f"{len(self.sizes)} codebooks; the second stage adds those behind the first")
        if not self.coarse.causal or self.fine.causal:
            raise ValueError("the first stage is causal, the second is not; take coarse: causal=True, fine: False")


class Asked(NamedTuple):
    """What a stage says in training, and what it should have said.

    Attributes:
        logits: float32.
        targets: -1 where nothing is asked.
    """

    logits: Float[Tensor, "R N S V"]
    targets: Int[Tensor, "R N S"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Cross-entropy, nats a code."""
        return masked_loss(self.logits, self.targets)


class TwoStageDecoder(TokenModel):
    """Both stages, trained side by side and run one after the other; each is a `TokenModel` by itself.

    Its own tokens are frames with all their codes. `forward` takes whole sequences of them, up to the end, and gives
    the law of each code given all that is drawn before it: of the first codebook the earlier groups of frames, of the
    others the coarser codebooks of all frames. So it tells what a sequence costs; `generate` draws.

    Attributes:
        layout: Of the tokens: a frame a step, with an end token.
        steps: Layout of the first stage: groups of frames of the first codebook, with a begin step and an end token.
        coarse: The first stage.
        fine: The second: masked by level, and told the level, with one step for each.
    """

    config_class: ClassVar[type[TwoStageConfig]] = TwoStageConfig

    def __init__(self, config: TwoStageConfig):
        super().__init__()
        self.config = config
        self.layout = Parallel(config.sizes, end=True)
        self.steps = first_stage(config.sizes, config.group)
        self.masking = Masking(config.sizes, by_level=True, first=1, schedule="all", prompt=True)
        context = 1 + -(-config.context // config.group)  # of groups, behind the begin step
        coarse = AutoregressiveConfig(self.steps.cards, config.coarse, context, self.steps.specials)
        self.coarse: TokenModel = AutoregressiveDecoder(coarse)
        self.fine: TokenModel = MaskedDecoder(MaskedConfig(config.sizes, config.fine, config.context, levels=True))
        if config.condition is not None:
            first = ConditionedDecoder(config.condition, self.coarse)
            second = ConditionedDecoder(config.condition, self.fine)
            if config.shared:
                second.encoder = first.encoder
            else:
                second.encoder.timing = first.encoder.timing  # both expect the same durations
            self.coarse, self.fine = first, second
        self._info = DecoderInfo(
            cards=self.layout.cards,
            context=config.context,
            layers=self.coarse.info.layers + self.fine.info.layers,
            width=config.fine.width,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            specials=self.layout.specials,
            causal=False,
            conditioning=self.coarse.info.conditioning,
            trees=False,
        )

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Conditions | None = None) -> State:
        """The conditions of both stages.

        Raises:
            ValueError: Also, steps to remember.
        """
        if max_steps:
            raise ValueError(f"{max_steps} steps to remember: a two-stage decoder takes whole sequences; take 0")
        states = dict(zip(STAGES, self._begin(rows, cond), strict=True))
        parts = {f"{name} {kind}": part for name, state in states.items() for kind, part in state.condition.items()}
        return State(rows, 0, (), next(self.parameters()), parts)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        """`hidden` is that of the last codebook."""
        if block_mask is not None:
            raise ValueError("a two-stage decoder knows by itself what each code sees; leave the block mask out")
        frames, vocabulary = tokens.shape[1], self.info.vocabulary
        coarse, fine = (None, None) if state is None else parted(state)
        codes, lengths = self.layout.unpack(tokens, (frames,)), self.layout.lengths(tokens, (frames,))
        steps = self.steps.pack(codes[:, :1], lengths)
        first = self.coarse(steps[:, :-1], state=coarse).logits.flatten(1, 2)[:, :frames]
        masks, there = torch.tensor(self.config.sizes, device=codes.device), inside(lengths, frames)
        said, visible = [lengthened(first, vocabulary)], there[:, None].expand(-1, frames, -1)
        for book in range(1, len(masks)):
            given = codes.mT.where(torch.arange(len(masks), device=codes.device) < book, masks)
            output = self.fine(given.where(there[..., None], 0), state=fine, block_mask=visible)
            said.append(lengthened(output.logits[:, :, book], vocabulary))
        return Output(torch.stack(said, 2), output.hidden)

    def ask(
        self,
        codes: Int[Tensor, "R Q T"],
        generator: torch.Generator,
        lengths: Int[Tensor, "R"] | None = None,
        cond: Conditions | None = None,
    ) -> dict[str, Asked]:
        """What each of `STAGES` is to learn from.

        Args:
            generator: Chooses each row's level of the second stage, and how much of the row is its prompt.
            lengths: Frames of each row, cut to `whole` groups; default: all.
        """
        if lengths is None:
            lengths = torch.full((len(codes),), codes.shape[2], device=codes.device)
        lengths = self.whole(lengths)
        coarse, fine = self._begin(len(codes), cond)
        steps = self.steps.pack(codes[:, :1], lengths)
        after = steps[:, 1:]
        free = after < torch.tensor(self.steps.cards, device=codes.device)  # the rest is padding
        there = inside(lengths, codes.shape[2])[..., None]
        hidden = self.masking.mask_for_training(codes.mT.where(there, -1), generator)
        said = self.coarse(steps[:, :-1], state=coarse).logits, after.where(free, -1)
        filled = self.fine(hidden.inputs, state=fine, block_mask=hidden.visible).logits, hidden.targets
        return dict(zip(STAGES, (Asked(*said), Asked(*filled)), strict=True))

    def whole(self, lengths: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Frames of the groups that are whole: so cut, the end token always begins a step, as drawing expects it."""
        return lengths // self.config.group * self.config.group

    def durations(self, cond: Conditions) -> Float[Tensor, "R M"]:
        """Frames that each id of the text of a timed decoder takes; see `ConditionEncoder.durations`."""
        return self.coarse.durations(cond)

    def duration_loss(self, cond: Conditions) -> Float[Tensor, ""]:
        """What a timed decoder's predictor of durations is to lower."""
        return self.coarse.duration_loss(cond)

    def conditions(self, cond: Conditions | None) -> tuple[Conditions | None, Conditions | None]:
        """Those of each stage: both are told the same durations, and the first one counts them in groups of frames."""
        if cond is None or cond.text is None or "durations" not in self.info.conditioning:
            return cond, cond
        durations = self.durations(cond)
        return replace(cond, durations=durations / self.config.group), replace(cond, durations=durations)

    @torch.no_grad()
    def generate(
        self,
        rows: int,
        frames: int,
        law: Law | None = None,
        noise: Noise | None = None,
        cond: Conditions | None = None,
        prompt: Int[Tensor, "R Q P"] | None = None,
        fine_law: Law | None = None,
    ) -> tuple[Int[Tensor, "R Q T"], Int[Tensor, "R"]]:
        """Codes of up to so many new frames, behind the prompt's.

        Args:
            law: Of the first stage. All streams but its first are without condition, as guidance wants them.
            noise: Default: `Noise(0)`.
            prompt: What is known, in all codebooks, such as speech of the speaker wanted; it is cut to whole groups.
            fine_law: Of the second stage; see `refine`.

        Returns:
            Codes, the prompt's in front, -1 behind each row's end; and lengths, the prompt's included.

        Raises:
            ValueError: A prompt of other rows or codebooks, or more frames than the context; see also `decode`.
        """
        config, law, noise = self.config, law or Law(), noise or Noise(0)
        if prompt is None:
            prompt = torch.empty(rows, len(config.sizes), 0, dtype=torch.int64, device=next(self.parameters()).device)
        if tuple(prompt.shape[:2]) != (rows, len(config.sizes)):
            raise ValueError(f"a prompt {list(prompt.shape)} for {rows} rows of {len(config.sizes)} codebooks")
        prompt = prompt[..., : prompt.shape[2] // config.group * config.group]
        known, steps = prompt.shape[2], -(-frames // config.group)
        total = known + frames
        if total > config.context:
            raise ValueError(f"{total} frames, prompt included, for a model of {config.context}; ask for fewer")
        begin = self.steps.pack(prompt[:, :1])[:, : 1 + known // config.group]  # without the end
        told = of_streams(self.conditions(cond)[0], law)
        streams = begin.repeat(len(law.streams), 1, 1)
        added = decode(self.coarse, streams, steps, law, noise, cond=told, stop=self.steps.end_id)
        tokens = torch.cat((begin, added.codes), 1)
        lengths = self.steps.lengths(tokens, (total,))
        codes = torch.full((rows, total, len(config.sizes)), -1, device=begin.device)
        codes[:, :, 0] = self.steps.unpack(tokens, (total,))[:, 0]
        codes[:, :known] = prompt.mT
        return self.refine(codes[:, : int(lengths.max())], lengths, fine_law, noise, cond).codes.mT, lengths

    @torch.no_grad()
    def refine(
        self,
        codes: Int[Tensor, "R T Q"],
        lengths: Int[Tensor, "R"],
        law: Law | None = None,
        noise: Noise | None = None,
        cond: Conditions | None = None,
    ) -> Result:
        """The second stage: all codebooks behind the first, a pass for each.

        Args:
            codes: Those of the first codebook, in the others -1 where none is known.
            lengths: Frames of each row, as many as the longest has; 0 for a row that ended at once.
            law: Default: the most probable codes. All streams but its first are without condition.
            noise: Default: `Noise(0)`.
            cond: Of the rows.

        Returns:
            All codes, -1 behind each row's end.
        """
        law = law or Law(temperature=0)
        if not codes.shape[1]:
            none = torch.zeros(codes.shape, device=codes.device)
            return Result(codes, lengths, none, Exactness.IDENTICAL, Recorder(len(codes)).trace())
        # A row that ended at once has one frame for this stage to run on; it is taken away behind it.
        blank = (lengths == 0)[:, None] & (torch.arange(codes.shape[1], device=codes.device) == 0)
        given = codes.clone()
        given[..., 0] = codes[..., 0].where(~blank, 0)
        result = decode_masked(
            self.fine, given, [1] * len(self.config.sizes), law, noise, lengths=lengths.clamp(min=1),
            cond=of_streams(self.conditions(cond)[1], law),
        )  # fmt: skip
        return replace(result, codes=result.codes.masked_fill(blank[..., None], -1), lengths=lengths)

    def _begin(self, rows: int, cond: Conditions | None) -> list[State]:
        """States without memory, of each stage."""
        stages = zip((self.coarse, self.fine), self.conditions(cond), strict=True)
        return [stage.init_state(rows, 0, told) for stage, told in stages]


def first_stage(sizes: tuple[int, ...], group: int) -> Layout:
    """Steps of the first codebook, so many frames each."""
    options = dict(begin=True, end=True)
    return Parallel(sizes[:1], **options) if group == 1 else Grouped(sizes[:1], group=group, **options)


def parted(state: State) -> list[State]:
    """The state of each stage, which `init_state` put into one."""
    of = [
        {kind.removeprefix(f"{name} "): part for kind, part in state.condition.items() if kind.startswith(f"{name} ")}
        for name in STAGES
    ]
    return [State(state.rows, 0, (), state.length, parts) for parts in of]


def of_streams(cond: Conditions | None, law: Law) -> Conditions | None:
    """Those of all streams of a law, of which the first has conditions."""
    if cond is None or len(law.streams) == 1:
        return cond
    return Conditions.stack([cond, *[None] * (len(law.streams) - 1)])
