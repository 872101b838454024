"""Conditioned decoders that one configuration makes, as checkpoints need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioning import ConditionConfig, ConditionedDecoder
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.masked import MaskedConfig, MaskedDecoder
from zoo.decoders.next_scale import NextScaleConfig, NextScaleDecoder


@dataclass(frozen=True)
class ConditionedConfig:
    """Shape of a conditioned autoregressive decoder.

    Attributes:
        conditions: What it is conditioned on, and how.
        decoder: What continues.
    """

    conditions: ConditionConfig
    decoder: AutoregressiveConfig


@dataclass(frozen=True)
class ConditionedDepthConfig(ConditionedConfig):
    """The same with a depth transformer over the codes of a frame."""

    decoder: DepthConfig


@dataclass(frozen=True)
class ConditionedMaskedConfig(ConditionedConfig):
    """The same of a decoder that fills in."""

    decoder: MaskedConfig


@dataclass(frozen=True)
class ConditionedNextScaleConfig:
    """Shape of a conditioned decoder of ever finer maps.

    Attributes:
        conditions: What it is conditioned on, and how.
        decoder: What draws.
    """

    conditions: ConditionConfig
    decoder: NextScaleConfig


class ConditionedAutoregressive(ConditionedDecoder):
    """An `AutoregressiveDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedConfig]] = ConditionedConfig

    def __init__(self, config: ConditionedConfig):
        super().__init__(config.conditions, AutoregressiveDecoder(config.decoder))
        self.config = config


class ConditionedDepth(ConditionedDecoder):
    """A `DepthDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedDepthConfig]] = ConditionedDepthConfig

    def __init__(self, config: ConditionedDepthConfig):
        super().__init__(config.conditions, DepthDecoder(config.decoder))
        self.config = config


class ConditionedMasked(ConditionedDecoder):
    """A `MaskedDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedMaskedConfig]] = ConditionedMaskedConfig

    def __init__(self, config: ConditionedMaskedConfig):
        super().__init__(config.conditions, MaskedDecoder(config.decoder))
        self.config = config


class ConditionedNextScale(ConditionedDecoder):
    """A `NextScaleDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedNextScaleConfig]] = ConditionedNextScaleConfig

    def __init__(self, config: ConditionedNextScaleConfig):
        super().__init__(config.conditions, NextScaleDecoder(config.decoder))
        self.config = config
