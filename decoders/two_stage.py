"""A codec language model in two stages: the first codebook step by step, each of the others in one pass.

Wang et al., "Neural Codec Language Models are Zero-Shot Text to Speech Synthesizers" (arXiv 2301.02111), VALL-E; Chen
et al., "VALL-E 2" (arXiv 2406.05370), whose first stage takes several frames a step. As a whole it goes through the
layout `CoarseFirst`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import ConditionConfig, ConditionedDecoder, Conditions
from zoo.decoders.layouts import Grouped
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, Masking, masked_loss
from zoo.decoders.sampling import Law, Noise, decode, decode_masked
from zoo.decoders.transformer import TransformerConfig


@dataclass(frozen=True)
class TwoStageConfig:
    """Shape of a two-stage decoder.

    Attributes:
        sizes: Codes of each codebook, coarse to fine.
        coarse: Transformer of the first stage, causal.
        fine: Of the second, not causal.
        group: Frames of a step of the first stage.
        context: Steps of either stage, those of a prefix included.
        condition: What both stages are conditioned on, each by an encoder of its own; None: nothing.
    """

    sizes: tuple[int, ...]
    coarse: TransformerConfig
    fine: TransformerConfig
    group: int = 1
    context: int = 2048
    condition: ConditionConfig | None = None

    def __post_init__(self) -> None:
        if len(self.sizes) < 2:
            raise ValueError(f"{len(self.sizes)} codebooks; the second stage adds those behind the first")


class TwoStageDecoder(nn.Module):
    """Both stages, trained side by side and run one after the other; each is a `TokenModel` by itself.

    Attributes:
        layout: Steps of the first stage: groups of frames, with a begin step and an end token.
        coarse: The first stage.
        fine: The second: masked by level, and told the level, with one step for each.
    """

    def __init__(self, config: TwoStageConfig):
        super().__init__()
        self.config = config
        self.layout = Grouped(config.sizes[:1], group=config.group, end=True, begin=True)
        self.masking = Masking(config.sizes, by_level=True, first=1, schedule="all", prompt=True)
        cards, specials = self.layout.cards, self.layout.specials
        coarse = AutoregressiveConfig(cards, config.coarse, config.context, specials)
        self.coarse: TokenModel = AutoregressiveDecoder(coarse)
        self.fine: TokenModel = MaskedDecoder(MaskedConfig(config.sizes, config.fine, config.context, levels=True))
        if config.condition is not None:
            self.coarse = ConditionedDecoder(config.condition, self.coarse)
            self.fine = ConditionedDecoder(config.condition, self.fine)

    def losses(
        self,
        codes: Int[Tensor, "R Q T"],
        generator: torch.Generator,
        lengths: Int[Tensor, "R"] | None = None,
        cond: Conditions | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of each stage, nats a code.

        Rows are cut to whole groups, so that the end token always begins a step.

        Args:
            generator: Chooses each row's level of the second stage, and how much of the row is its prompt.
            lengths: Frames of each row; default: all.
        """
        if lengths is None:
            lengths = torch.full((len(codes),), codes.shape[2], device=codes.device)
        lengths = lengths // self.config.group * self.config.group
        tokens = self.layout.pack(codes[:, :1], lengths)
        logits = self.coarse(tokens[:, :-1], state=self.coarse.init_state(len(codes), 0, cond)).logits
        targets = tokens[:, 1:]
        free = targets < torch.tensor(self.layout.cards, device=codes.device)  # the rest is padding
        coarse = cross_entropy(logits.permute(0, 3, 1, 2), targets.where(free, -1), ignore_index=-1)
        there = torch.arange(codes.shape[2], device=codes.device) < lengths[:, None]
        hidden = self.masking.mask_for_training(codes.mT.where(there[..., None], -1), generator)
        state = self.fine.init_state(len(codes), 0, cond)
        fine = masked_loss(self.fine(hidden.inputs, state=state, block_mask=hidden.visible).logits, hidden.targets)
        return {"coarse": coarse, "fine": fine}

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
            fine_law: Of the second stage, likewise; default: the most probable codes.

        Returns:
            Codes, the prompt's in front, -1 behind each row's end; and lengths, the prompt's included.

        Raises:
            ValueError: A prompt of other rows or codebooks, or more frames than the context; see also `decode`.
        """
        config, law, noise = self.config, law or Law(), noise or Noise(0)
        fine_law = fine_law or Law(temperature=0)
        if prompt is None:
            prompt = torch.empty(rows, len(config.sizes), 0, dtype=torch.int64, device=self._device)
        if tuple(prompt.shape[:2]) != (rows, len(config.sizes)):
            raise ValueError(f"a prompt {list(prompt.shape)} for {rows} rows of {len(config.sizes)} codebooks")
        prompt = prompt[..., : prompt.shape[2] // config.group * config.group]
        known, steps = prompt.shape[2], -(-frames // config.group)
        total = known + frames
        if total > config.context:
            raise ValueError(f"{total} frames, prompt included, for a model of {config.context}; ask for fewer")
        begin = self.layout.pack(prompt[:, :1])[:, : 1 + known // config.group]  # without the end
        streams = begin.repeat(len(law.streams), 1, 1)
        added = decode(
            self.coarse,
            streams,
            steps,
            law,
            noise.derive(0),
            cond=_of_streams(cond, law),
            stop=self.layout.end_id,
        ).codes
        tokens = torch.cat((begin, added), 1)
        lengths = self.layout.lengths(tokens, (total,))
        codes = torch.full((rows, total, len(config.sizes)), -1, device=begin.device)
        codes[:, :, 0] = self.layout.unpack(tokens, (total,))[:, 0]
        codes[:, :known] = prompt.mT
        codes = codes[:, : int(lengths.max())]
        if codes.shape[1]:
            # A row that ended at once has one frame for the second stage to run on; it is taken away behind it.
            blank = (lengths == 0)[:, None] & (torch.arange(codes.shape[1], device=codes.device) == 0)
            codes[..., 0] = codes[..., 0].where(~blank, 0)
            codes = decode_masked(
                self.fine,
                codes,
                [1] * len(config.sizes),
                fine_law,
                noise.derive(1),
                lengths=lengths.clamp(min=1),
                cond=_of_streams(cond, fine_law),
            ).codes.masked_fill(blank[..., None], -1)
        return codes.mT, lengths

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


def _of_streams(cond: Conditions | None, law: Law) -> Conditions | None:
    if cond is None or len(law.streams) == 1:
        return cond
    return Conditions.stack([cond, *[None] * (len(law.streams) - 1)])
