"""Two towers, each a decoder of its own modality, that attend to each other every few layers.

Zayats et al., "Zipper: A Multi-Tower Decoder Architecture for Fusing Modalities" (arXiv 2405.18669). Towers are trained
alone, on all there is of their modality; the joints between them need few examples of both. Gates are those of Alayrac
et al., "Flamingo" (arXiv 2204.14198): closed at first, so that the whole begins as the two towers that it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from zoo.decoders.attention import CrossAttention
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.state import State
from zoo.decoders.transformer import TransformerConfig, make_norm


@dataclass(frozen=True)
class ZipperConfig:
    """Shape of a zipper.

    Attributes:
        towers: Two causal decoders of one axis, of any widths and depths.
        joints: Where the towers meet: so many times, evenly spread over the depth of each, never behind its last layer.
        frozen: Towers that keep their weights, and their ways in training: no dropout.
        target: The tower whose tokens `forward` takes; the other one's are its condition.
        source: Which kind of `Conditions` holds these: "text" `[R, M]`, for a tower of one codebook, or "reference"
            `[R, M, Q]`.
    """

    towers: tuple[AutoregressiveConfig, AutoregressiveConfig]
    joints: int
    frozen: tuple[bool, bool] = (False, False)
    target: Literal[0, 1] = 1
    source: Literal["text", "reference"] = "text"

    def __post_init__(self) -> None:
        cores = [tower.transformer for tower in self.towers]
        if not all(core.causal and core.axes == 1 and not core.inject for core in cores):
            raise ValueError("towers are causal, of one axis, and take nothing in again within loops (inject)")
        depths = [core.depth for core in cores]
        if not 1 <= self.joints < min(depths):
            raise ValueError(f"{self.joints} joints between towers of {depths} layers; give at least 1, and fewer")
        if self.source == "text" and len(self.towers[1 - self.target].cards) > 1:
            raise ValueError("text has one codebook, the tower that reads it more; take source='reference'")


class Zipper(TokenModel):
    """Continues one modality, given all of the other; a row without any of it is the tower alone.

    Args:
        towers: Those of another zipper, to share; default: new ones, which may be given the weights of decoders that
            were trained alone: `zipper.towers.members[0].load_state_dict(text_decoder.state_dict())`.
    """

    config_class: ClassVar[type[ZipperConfig]] = ZipperConfig

    def __init__(self, config: ZipperConfig, towers: Towers | None = None):
        super().__init__()
        self.config = config
        self.towers = towers or Towers(config)
        count = sum(parameter.numel() for parameter in self.parameters())
        self._info = replace(self._target.info, conditioning=(config.source,), parameters=count)

    @property
    def info(self) -> DecoderInfo:
        return self._info

    @property
    def _target(self) -> AutoregressiveDecoder:
        target: Any = self.towers.members[self.config.target]
        return target

    @property
    def reader(self) -> AutoregressiveDecoder:
        """The tower that reads the condition."""
        reader: Any = self.towers.members[1 - self.config.target]
        return reader

    def turned(self, source: Literal["text", "reference"]) -> Zipper:
        """The same weights the other way: what was the source is continued, given what was the target."""
        return Zipper(replace(self.config, target=1 - self.config.target, source=source), self.towers)

    def init_state(self, rows: int, max_steps: int, cond: Conditions | None = None) -> State:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not max_steps):
            state = self._target.init_state(rows, max_steps)
            if cond is not None and cond.given:
                tokens, there = self._source(rows, cond)
                pairs = self.towers.read(1 - self.config.target, tokens)
                keys, values = (list(parts) for parts in zip(*pairs, strict=True))
                state.condition |= {"joint_keys": keys, "joint_values": values, "joint_seen": [there[:, None]]}
        return state

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        told = state.condition if state is not None and "joint_keys" in state.condition else None
        side, tower = self.config.target, self._target
        x = tower.embedding(tokens, positions)
        for number, joint in enumerate(self.towers.joints[side]):
            _, x = self.towers.section(side, number, x, positions, state, block_mask)
            if told is not None:
                x = joint(x, told["joint_keys"][number], told["joint_values"][number], told["joint_seen"][0])
        hidden, _ = self.towers.section(side, self.config.joints, x, positions, state, block_mask)
        return Output(tower.heads(hidden), hidden)

    def _source(self, rows: int, cond: Conditions) -> tuple[Int[Tensor, "R M Q"], Bool[Tensor, "R M"]]:
        """The other tower's tokens, and which of them are there."""
        if list(cond.given) != [self.config.source]:
            raise ValueError(f"this zipper takes {self.config.source}, and was given {', '.join(cond.given)}")
        tokens = cond.given[self.config.source]
        tokens = tokens[..., None] if self.config.source == "text" else tokens
        if tokens.ndim != 3 or len(tokens) != rows:
            raise ValueError(f"{self.config.source} of shape {list(tokens.shape)} for {rows} rows")
        if tokens.shape[1] > (context := self.reader.info.context):
            raise ValueError(f"{self.config.source} of {tokens.shape[1]} tokens for a tower of context {context}")
        there = tokens[..., 0] >= 0
        return tokens.where(there[..., None], 0), there


class Towers(nn.Module):
    """Both decoders and the joints between them.

    Attributes:
        members: The two decoders.
        joints: For each decoder, its joints with the other one.
    """

    def __init__(self, config: ZipperConfig):
        super().__init__()
        self.frozen = config.frozen
        self.members = nn.ModuleList(AutoregressiveDecoder(tower) for tower in config.towers)
        cores = [tower.transformer for tower in config.towers]
        self.joints = nn.ModuleList(
            nn.ModuleList(Joint(own, other) for _ in range(config.joints)) for own, other in (cores, cores[::-1])
        )
        parts = config.joints + 1
        self.ends = [[core.depth * part // parts for part in range(parts + 1)] for core in cores]
        for member, frozen in zip(self.members, self.frozen, strict=True):
            member.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Towers:
        super().train(mode)
        for member, frozen in zip(self.members, self.frozen, strict=True):
            if frozen:
                member.eval()
        return self

    def forward(
        self,
        tokens: Sequence[Int[Tensor, "R N Q"]],
        times: Sequence[Int[Tensor, "R N"]],
    ) -> list[Output]:
        """Run both towers side by side, for training on any interleaving of the two modalities.

        Args:
            tokens: Of each tower.
            times: When each step comes, by a clock that both towers share and that never stands still in either. A step
                sees the steps of its own tower up to itself, and those of the other that came before.

        Returns:
            Of each tower, what comes next in its own modality.
        """
        for member, given in zip(self.members, tokens, strict=True):
            member._check(given, None, None)
        places = [torch.arange(each.shape[1], device=each.device).expand(each.shape[:2]) for each in tokens]
        seen = [times[1 - side][:, None] < times[side][:, :, None] for side in range(2)]
        x = [self.members[side].embedding(tokens[side], places[side]) for side in range(2)]
        for number in range(len(self.joints[0])):
            left = [self.section(side, number, x[side], places[side])[1] for side in range(2)]
            x = [
                joint(left[side], *joint.read(left[1 - side]), seen[side])
                for side, joint in enumerate(joints[number] for joints in self.joints)
            ]
        outputs = []
        for side, member in enumerate(self.members):
            hidden, _ = self.section(side, len(self.joints[side]), x[side], places[side])
            outputs.append(Output(member.heads(hidden), hidden))
        return outputs

    def losses(
        self,
        tokens: Sequence[Int[Tensor, "R N Q"]],
        times: Sequence[Int[Tensor, "R N"]],
    ) -> list[Float[Tensor, ""]]:
        """Cross-entropy of the next step in each tower, nats a code; input-only ids are read and not asked for."""
        losses = []
        for member, given, output in zip(self.members, tokens, self(tokens, times), strict=True):
            targets = given[:, 1:].where(given[:, 1:] < torch.tensor(member.info.cards, device=given.device), -1)
            logits = output.logits[:, :-1].permute(0, 3, 1, 2)
            losses.append(cross_entropy(logits, targets, ignore_index=-1))
        return losses

    def read(
        self, side: int, tokens: Int[Tensor, "R M Q"]
    ) -> list[tuple[Float[Tensor, "R H M E"], Float[Tensor, "R H M E"]]]:
        """Keys and values for each joint of the other tower, of tokens that all come before its first."""
        member = self.members[side]
        member._check(tokens, None, None)
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        x, pairs = member.embedding(tokens, places), []
        for number, joint in enumerate(self.joints[1 - side]):
            _, x = self.section(side, number, x, places)
            pairs.append(joint.read(x))
        return pairs

    def section(
        self,
        side: int,
        number: int,
        x: Float[Tensor, "R N D"],
        positions: Int[Tensor, "R N"],
        state: State | None = None,
        block_mask: Bool[Tensor, "#R N N"] | None = None,
    ) -> tuple[Float[Tensor, "R N D"], Float[Tensor, "R N D"]]:
        """Run a tower's layers between two joints; what leaves them, behind the last norm and without it."""
        first, end = self.ends[side][number : number + 2]
        transformer = self.members[side].transformer
        hidden, left = transformer(x, positions, state, block_mask, range(first, end), exits=(end - 1,))
        return hidden, left[0]


class Joint(nn.Module):
    """Attention of one tower to the hidden states of the other, beside the identity, which it is while its gate is 0.

    Args:
        own, other: Transformers of the tower that attends, and of the one attended to.
    """

    def __init__(self, own: TransformerConfig, other: TransformerConfig):
        super().__init__()
        heads, kv_heads = own.heads, own.kv_heads or own.heads
        self.norm, self.other_norm = make_norm(own), make_norm(other)
        self.enter = nn.Linear(other.width, own.width)
        self.attention = CrossAttention(own.width, own.width, heads, kv_heads, own.head_features)
        self.gate = nn.Parameter(torch.zeros(1))

    def read(self, hidden: Float[Tensor, "R M C"]) -> tuple[Float[Tensor, "R H M E"], Float[Tensor, "R H M E"]]:
        """Keys and values of the other tower's hidden states."""
        return self.attention.condition(gelu(self.enter(self.other_norm(hidden))), hidden.new_ones(1, 1, 1))

    def forward(
        self,
        x: Float[Tensor, "R N D"],
        keys: Float[Tensor, "R H M E"],
        values: Float[Tensor, "R H M E"],
        seen: Bool[Tensor, "R #N M"],
    ) -> Float[Tensor, "R N D"]:
        """A slot that sees nothing of the other tower stays as it is."""
        sighted = seen.any(-1, keepdim=True)
        bias = torch.zeros_like(seen, dtype=x.dtype).masked_fill(sighted & ~seen, float("-inf"))
        return x + self.gate.tanh() * sighted * self.attention(self.norm(x), keys, values, bias[:, None])
