"""Conditioned decoders that one configuration makes, as checkpoints need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioning import ConditionConfig, ConditionedDecoder
from zoo.decoders.masked import MaskedConfig, MaskedDecoder


@dataclass(frozen=True)
class ConditionedConfig:
    """Shape of a conditioned autoregressive decoder.

    Attributes:
        conditions: What it is conditioned on, and how.
        decoder: What continues.
    """

    conditions: ConditionConfig
    decoder: AutoregressiveConfig


class ConditionedAutoregressive(ConditionedDecoder):
    """An `AutoregressiveDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedConfig]] = ConditionedConfig

    def __init__(self, config: ConditionedConfig):
        super().__init__(config.conditions, AutoregressiveDecoder(config.decoder))
        self.config = config


@dataclass(frozen=True)
class ConditionedMaskedConfig:
    """Shape of a conditioned masked decoder.

    Attributes:
        conditions: What it is conditioned on, and how.
        decoder: What fills in.
    """

    conditions: ConditionConfig
    decoder: MaskedConfig


class ConditionedMasked(ConditionedDecoder):
    """A `MaskedDecoder` with the encoder of its conditions."""

    config_class: ClassVar[type[ConditionedMaskedConfig]] = ConditionedMaskedConfig

    def __init__(self, config: ConditionedMaskedConfig):
        super().__init__(config.conditions, MaskedDecoder(config.decoder))
        self.config = config
