"""Codecs and decoders that generate: the smallest of each medium and way of drawing, with weights that answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_image_codecs import tiny
from torch import Tensor

import zoo
from zoo import checkpoint
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioned import (
    ConditionedAutoregressive,
    ConditionedConfig,
    ConditionedMasked,
    ConditionedMaskedConfig,
)
from zoo.decoders.conditioning import BYTES, ConditionConfig, ConditionedDecoder, Conditions
from zoo.decoders.ctc import CTCConfig, CTCDecoder
from zoo.decoders.layouts import Delay, Flat, Layout, NextScale, Parallel, Raster
from zoo.decoders.masked import MaskedConfig
from zoo.decoders.next_scale import NextScaleConfig, NextScaleDecoder
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.two_stage import TwoStageConfig, TwoStageDecoder
from zoo.token_facts import TokenFacts, positions_of
from zoo.vocabulary import Vocabulary

SPEECH = dict(
    sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=4, codebook_size=16, lstm_layers=0, pad="constant"
)  # 100 frames a second
SOUND_SIZES, CELL_SIZES = (16,) * 3, (64,) * 2
VOICES, SHAPES = ("anna", "bert"), ("circle", "square", "star")
SCALES = (1, 2, 3, 5)


def save_speech_codec(folder: Path) -> str:
    """Four codebooks of 16 codes, 80 samples a frame; returns the digest of the weights."""
    torch.manual_seed(0)
    return checkpoint.save(zoo.create("seanet", **SPEECH), folder)


def save_picture_codec(folder: Path, architecture: str = "rqvae", variant: str = "shared") -> str:
    """Three codebooks of 64 codes, cells of 4 x 4 pixels; returns the digest of the weights."""
    return checkpoint.save(tiny(architecture, variant), folder)


def answering(model: TokenModel, facts: TokenFacts, seed: int = 0) -> Any:
    """The decoder with weights so large that what goes in shows in what comes out."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.tokens, model.name = facts, "small"
    return model.eval()


def core(width: int = 16, layers: int = 2, **options: Any) -> TransformerConfig:
    return TransformerConfig(width, layers, heads=2, **options)


def text_decoder(context: int = 64, seed: int = 0, layers: int = 2, **options: Any) -> Any:
    """Of bytes."""
    vocabulary = Vocabulary()
    layout = Parallel((vocabulary.card,), **options)
    config = AutoregressiveConfig(layout.cards, core(layers=layers), context, specials=layout.specials, head_bias=True)
    return answering(AutoregressiveDecoder(config), TokenFacts(layout, vocabulary), seed)


def _conditions(kinds: dict[str, Any]) -> ConditionConfig:
    return ConditionConfig(16, way="prefix", encoder=core(causal=False) if "text" in kinds else None, **kinds)


def _autoregressive(layout: Layout, kinds: dict[str, Any], context: int, **facts: Any) -> Any:
    config = AutoregressiveConfig(layout.cards, core(), context, specials=layout.specials, head_bias=True)
    model = ConditionedAutoregressive(ConditionedConfig(_conditions(kinds), config))
    return answering(model, TokenFacts(layout, **facts))


def _masked(layout: Layout, kinds: dict[str, Any], context: int, options: dict[str, Any], **facts: Any) -> Any:
    axes = 2 if isinstance(layout, Raster) else 1
    config = MaskedConfig(layout.cards, core(causal=False, axes=axes), context, **options)
    model = ConditionedMasked(ConditionedMaskedConfig(_conditions(kinds), config))
    return answering(model, TokenFacts(layout, **facts))


VOICE_FACTS = dict(codec="speech", labels=VOICES, paces=(2.0, 3.0))
VOICE_KINDS = dict(classes=2, text=BYTES)


def speech_decoder(weights: str = "", context: int = 64, layout: Layout | None = None, **kinds: Any) -> Any:
    """Says text, one codebook later than the other, and ends itself."""
    layout = layout or Delay(SOUND_SIZES, begin=True, end=True)
    return _autoregressive(layout, VOICE_KINDS | kinds, context, weights=weights, **VOICE_FACTS)


def masked_speech_decoder(weights: str = "", context: int = 64, levels: bool = True, **kinds: Any) -> Any:
    """Says text level by level."""
    options = dict(levels=levels)
    return _masked(Parallel(SOUND_SIZES), VOICE_KINDS | kinds, context, options, weights=weights, **VOICE_FACTS)


def two_stage_decoder(weights: str = "", group: int = 1, context: int = 64, **kinds: Any) -> Any:
    """Says text, the first codebook by groups of frames, and ends itself."""
    reads = _conditions(VOICE_KINDS | kinds)
    config = TwoStageConfig(SOUND_SIZES, core(), core(causal=False), group, context, reads)
    model = TwoStageDecoder(config)
    return answering(model, TokenFacts(model.layout, weights=weights, **VOICE_FACTS))


def one_pass_decoder(weights: str = "", context: int = 64, **kinds: Any) -> Any:
    """Says text in one pass, of places of which some are blank and some are the code before once more."""
    layout = Parallel(SOUND_SIZES[:1], absent=True)
    source = ConditionConfig(16, encoder=core(causal=False), **({"text": BYTES} | kinds))
    config = CTCConfig(layout.cards, core(causal=False), context, condition=source, upsampling=4, head_bias=True)
    return answering(CTCDecoder(config), TokenFacts(layout, codec="speech", weights=weights))


PICTURE_FACTS = dict(codec="pictures", labels=SHAPES, grid=(3, 4))


def picture_decoder(weights: str = "", context: int = 64) -> Any:
    """Draws code by code."""
    layout = Flat(CELL_SIZES, begin=True)
    return _autoregressive(layout, dict(classes=3), context, weights=weights, **PICTURE_FACTS)


def masked_picture_decoder(weights: str = "") -> Any:
    """Fills in cells."""
    return _masked(Raster(CELL_SIZES), dict(classes=3), 64, {}, weights=weights, **PICTURE_FACTS)


def scales_decoder(weights: str = "") -> Any:
    """Draws scale by scale, of the codes of `save_picture_codec(folder, "var-vqvae", "plain")`."""
    scales = tuple((side, side) for side in SCALES)
    transformer = core(causal=False, rope=False, adaptive=16)
    inner = NextScaleDecoder(NextScaleConfig((64,), scales, transformer, channels=8))
    model = ConditionedDecoder(ConditionConfig(16, classes=3, pooled=("labels",)), inner)
    facts = TokenFacts(NextScale((64,), scales=scales), codec="scales", weights=weights, labels=SHAPES)
    return answering(model, facts)


def bias_towards(model: Any, token: int, by: float) -> None:
    """Make that token of the first codebook more probable."""
    with torch.no_grad():
        getattr(model, "decoder", model).heads.product.bias[token] += by


def most_probable(model: TokenModel, layout: Layout, codes: Tensor, cond: Conditions | None) -> Tensor:
    """Whether each free token of the steps of these codes is the most probable behind the true steps before it."""
    tokens, shape = layout.pack(codes[None]), tuple(codes.shape[1:])
    positions = positions_of(layout, model.info, shape)
    positions = None if positions is None else positions[:, :-1]
    logits = model(tokens[:, :-1], positions, model.init_state(1, 0, cond)).logits
    free = layout.forced(shape)[1:] < 0
    return (logits.argmax(-1) == tokens[:, 1:])[0][free]
