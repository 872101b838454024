"""A deep encoder that reads the text once, and a shallow decoder that pays for each step.

Yu et al., "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation" (arXiv 2206.10789), Parti; that
most layers belong into the encoder: Kasai et al., "Deep Encoder, Shallow Decoder" (arXiv 2006.10369).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioning import BYTES, ConditionConfig, ConditionedDecoder


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Shape of an encoder-decoder.

    Attributes:
        decoder: Its transformer attends to the encoder, of the same width and heads, if `cross` says so or not.
        encoder_layers: Layers of the encoder, which is not causal and, whatever the decoder does, doesn't loop.
        text: Size of the text's vocabulary.
    """

    decoder: AutoregressiveConfig
    encoder_layers: int
    text: int = BYTES


class EncoderDecoder(ConditionedDecoder):
    """An autoregressive decoder over any layout, conditioned on text by a deep encoder and cross-attention."""

    config_class: ClassVar[type[EncoderDecoderConfig]] = EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig):
        core = replace(config.decoder.transformer, cross=config.decoder.transformer.width)
        encoder = replace(
            core, layers=config.encoder_layers, causal=False, axes=1, rope=True, cross=0,
            loops=1, prelude=0, coda=0, inject=False,
        )  # fmt: skip
        decoder = AutoregressiveDecoder(replace(config.decoder, transformer=core))
        super().__init__(ConditionConfig(core.width, text=config.text, encoder=encoder), decoder)
        self.config = config
