"""Declarative maps between foreign weights and ours: renaming rules that work both ways, with hooks for fused tensors.

A name template has fields in braces: `{n}` stands for one part of a dotted name. A rule whose names fit turns the
tensors on one side into those on the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Hook = Callable[..., tuple[Tensor, ...]]


def unchanged(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The hook of a rule that only renames."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """Tensors named `theirs` are, after `read`, tensors named `ours`; `write` is the way back."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Hook = unchanged
    write: Hook = unchanged


@dataclass(frozen=True)
class KeyMap:
    """All rules of one foreign format.

    Attributes:
        rules: The first rule that fits a name takes it.
        aliases: Other spellings of their names, `(pattern, replacement)` for `re.sub`, applied before reading.
        ignored: Patterns of their names that hold nothing learned, such as masks, and are not read.
    """

    rules: tuple[Rule, ...]
    aliases: tuple[tuple[str, str], ...] = field(default=())
    ignored: tuple[str, ...] = ()

    def read(self, theirs: Tensors) -> Tensors:
        """Our state dict from their tensors.

        Raises:
            ValueError: A tensor that no rule knows, or one that a rule needs and that is missing.
        """
        for pattern, replacement in self.aliases:
            theirs = {re.sub(pattern, replacement, name): tensor for name, tensor in theirs.items()}
        for pattern in self.ignored:
            theirs = {name: tensor for name, tensor in theirs.items() if not re.fullmatch(pattern, name)}
        return _translate([(rule.theirs, rule.ours, rule.read) for rule in self.rules], theirs)

    def write(self, ours: Tensors) -> Tensors:
        """Their tensors from our state dict; raises as `read` does."""
        return _translate([(rule.ours, rule.theirs, rule.write) for rule in self.rules], ours)


def _translate(rules: list[tuple[tuple[str, ...], tuple[str, ...], Hook]], tensors: Tensors) -> Tensors:
    result: Tensors = {}
    left = dict(tensors)
    for sources, targets, hook in rules:
        for names in _matches(sources, left):
            missing = [name for name in (source.format(**names) for source in sources) if name not in left]
            if missing:
                raise ValueError(f"tensor {missing[0]!r} is missing; is the file whole, and of this architecture?")
            outputs = hook(*(left.pop(source.format(**names)) for source in sources))
            result |= {target.format(**names): tensor for target, tensor in zip(targets, outputs, strict=True)}
    if left:
        raise ValueError(f"no rule for tensor {min(left)!r} and {len(left) - 1} more; is this the right key map?")
    return result


def _matches(sources: tuple[str, ...], tensors: Tensors) -> Iterator[dict[str, str]]:
    """Fields of every set of names that fits, found by the first template; a rule without names fits once."""
    if not sources:
        yield {}
        return
    pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(sources[0])))
    for name in list(tensors):
        if match := pattern.fullmatch(name):
            yield match.groupdict()


def encodec(ratios: tuple[int, ...], residual_layers: int = 1, lstm: bool = True, weight_norm: bool = True) -> KeyMap:
    """EnCodec as `transformers` stores it, to a `SEANetCodec` without weight norm (`fuse()`).

    Reading multiplies weight norm out; writing splits it again into a norm g and a direction v that equals the weight,
    so ours -> theirs -> ours changes nothing, and theirs -> ours -> theirs keeps the weights but not the scale of v.
    """
    step = 2 + residual_layers  # layers that one ratio takes: residual blocks, ELU, convolution
    upsamplers = {(2 if lstm else 1) + 1 + step * index: ratio for index, ratio in enumerate(ratios)}
    rules = []
    for index, ratio in upsamplers.items():
        prefix = f"decoder.layers.{index}."
        rules += _convolution(prefix + "conv", prefix[:-1], weight_norm, *_upsampling(ratio))
    layer = "{half}.layers.{n}"
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        recurrent = f"{layer}.lstm.{name}_l{{level}}"
        rules.append(Rule((recurrent,), (recurrent,)))
    names = {"conv": "", "block.1.conv": ".wide", "block.3.conv": ".narrow", "shortcut.conv": ".shortcut"}
    for theirs, ours in names.items():
        rules += _convolution(f"{layer}.{theirs}", layer + ours, weight_norm, _taps_first, _taps_first)
    books = "quantizer.layers.{n}.codebook.", "quantizer.levels.{n}."
    rules.append(
        Rule(
            tuple(books[0] + name for name in ("embed", "embed_avg", "cluster_size", "inited")),
            tuple(books[1] + name for name in ("embedding", "counts", "steps")),
            lambda embed, average, counts, inited: (embed, counts, torch.tensor(0)),
            lambda embed, counts, steps: (embed, embed * counts[:, None], counts, torch.ones(1)),
        )
    )
    rules.append(Rule((), ("quantizer.steps",), lambda: (torch.tensor(0),), lambda steps: ()))
    aliases = ((r"weight_g$", "parametrizations.weight.original0"), (r"weight_v$", "parametrizations.weight.original1"))
    return KeyMap(tuple(rules), aliases)


def _convolution(
    theirs: str, ours: str, weight_norm: bool, into: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> list[Rule]:
    """Rules of one kind of convolution; `into` and `back` change the layout of the weight."""
    bias = Rule((theirs + ".bias",), (ours + ".bias",))
    if weight_norm:
        pair = tuple(f"{theirs}.parametrizations.weight.original{index}" for index in range(2))
        weight = Rule(pair, (ours + ".weight",), lambda g, v: (into(v * (g / _norm(v))),), lambda w: _pair(back(w)))
        return [bias, weight]
    norm = theirs.removesuffix("conv") + "norm."
    scales = [Rule((norm + name,), (f"{ours}.norm.{name}",)) for name in ("weight", "bias")]
    weight = Rule((theirs + ".weight",), (ours + ".weight",), lambda w: (into(w),), lambda w: (back(w),))
    return [bias, weight, *scales]


def _pair(weight: Tensor) -> tuple[Tensor, Tensor]:
    return _norm(weight), weight


def _norm(weight: Tensor) -> Tensor:
    return weight.norm(dim=(1, 2), keepdim=True)


def _taps_first(weight: Tensor) -> Tensor:
    """[out, in, tap] -> [tap, in, out], and its own inverse."""
    return weight.permute(2, 1, 0).contiguous()


def _upsampling(ratio: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """[in, out, tap] -> [step back, in, stride, out], and the inverse."""

    def into(weight: Tensor) -> Tensor:
        return weight.unflatten(2, (-1, ratio)).permute(2, 0, 3, 1).contiguous()

    def back(weight: Tensor) -> Tensor:
        return weight.permute(1, 3, 0, 2).flatten(2).contiguous()

    return into, back


@dataclass(frozen=True)
class VQGANNames:
    """What a format of the VQGAN family calls the layers of its networks; the defaults are what we call them.

    Attributes:
        down, up: Stages of encoder and decoder, by `{level}`.
        up_from_coarse: Decoder stages are numbered as they run, not by resolution.
        block, attention: Of a stage, by `{index}`.
        downsample, upsample: Of a stage.
        middle: The two blocks in the middle, with the attention between them.
        norm_out: Last norm.
        shortcut: A residual block's 1 x 1 convolution.
        attention_layers: Norm, query, key, value and output of attention; or, of three layers, the second is the fusion
            of query, key and value.
        linear: Attention has matrices in place of 1 x 1 convolutions.
    """

    down: str = "down.{level}"
    up: str = "up.{level}"
    up_from_coarse: bool = False
    block: str = "block.{index}"
    attention: str = "attn.{index}"
    downsample: str = "downsample"
    upsample: str = "upsample"
    middle: tuple[str, str, str] = ("mid.block_1", "mid.attn_1", "mid.block_2")
    norm_out: str = "norm_out"
    shortcut: str = "nin_shortcut"
    attention_layers: tuple[str, ...] = ("norm", "q", "k", "v", "proj_out")
    linear: bool = False


OURS = VQGANNames()  # and those of taming-transformers and of transformers' Chameleon
JANUS = VQGANNames(up_from_coarse=True)
VAR = VQGANNames(attention_layers=("norm", "qkv", "proj_out"))
LLAMAGEN = VQGANNames(
    down="conv_blocks.{level}",
    up="conv_blocks.{level}",
    up_from_coarse=True,
    block="res.{index}",
    middle=("mid.0", "mid.1", "mid.2"),
)
DIFFUSERS = VQGANNames(
    down="down_blocks.{level}",
    up="up_blocks.{level}",
    up_from_coarse=True,
    block="resnets.{index}",
    attention="attentions.{index}",
    downsample="downsamplers.0",
    upsample="upsamplers.0",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    norm_out="conv_norm_out",
    shortcut="conv_shortcut",
    attention_layers=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    linear=True,
)


CODEBOOK = (Rule(("quantize.embedding.weight",), ("quantizer.embedding",)),)


def vqgan(levels: int, names: VQGANNames = OURS, quantizer: tuple[Rule, ...] = CODEBOOK) -> KeyMap:
    """A VQGAN of so many resolutions to a `VQGAN` whose codebook is "sphere" or "learned"."""
    rules = [*quantizer, *_layer("quant_conv", "quant_conv"), *_layer("post_quant_conv", "post_quant_conv")]
    for half in ("encoder.", "decoder."):
        for theirs, ours in (("conv_in", "conv_in"), ("conv_out", "conv_out"), (names.norm_out, "norm_out")):
            rules += _layer(half + theirs, half + ours)
        for part, (theirs, ours) in enumerate(zip(names.middle, OURS.middle, strict=True)):
            rules += (_attention if part == 1 else _residual)(half + theirs, half + ours, names)
    for level in range(levels):
        number = levels - 1 - level if names.up_from_coarse else level
        encoder = "encoder." + names.down.format(level=level) + ".", f"encoder.down.{level}."
        decoder = "decoder." + names.up.format(level=number) + ".", f"decoder.up.{level}."
        rules += _layer(encoder[0] + names.downsample + ".conv", encoder[1] + "downsample.conv")
        rules += _layer(decoder[0] + names.upsample + ".conv", decoder[1] + "upsample.conv")
        for theirs, ours in (encoder, decoder):
            rules += _residual(theirs + names.block, ours + OURS.block, names)
            rules += _attention(theirs + names.attention, ours + OURS.attention, names)
    return KeyMap(tuple(rules))


def llamagen(levels: int) -> KeyMap:
    """LlamaGen's tokenizer to a `VQGAN`; which codes the last batches of its training used is left behind."""
    return replace(vqgan(levels, LLAMAGEN), ignored=(r"quantize\.codebook_used",))


def var_vqvae(levels: int, scales: int) -> KeyMap:
    """VAR's tokenizer to a `MultiScaleVQVAE`; how often each code was hit is left behind, and written as zeros."""
    codebook = Rule(
        ("quantize.embedding.weight", "quantize.ema_vocab_hit_SV"),
        ("quantizer.embedding.weight",),
        lambda embedding, hits: (embedding,),
        lambda embedding: (embedding, torch.zeros(scales, len(embedding))),
    )
    phis = "quant_resi.qresi_ls.{index}"
    return vqgan(levels, VAR, (codebook, *_layer("quantize." + phis, "quantizer." + phis)))


def _layer(theirs: str, ours: str) -> list[Rule]:
    return [Rule((f"{theirs}.{part}",), (f"{ours}.{part}",)) for part in ("weight", "bias")]


def _residual(theirs: str, ours: str, names: VQGANNames) -> list[Rule]:
    layers = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {names.shortcut: OURS.shortcut}
    return [rule for name, our_name in layers.items() for rule in _layer(f"{theirs}.{name}", f"{ours}.{our_name}")]


def _attention(theirs: str, ours: str, names: VQGANNames) -> list[Rule]:
    ours_norm, *ours_inner, ours_out = (f"{ours}.{name}" for name in OURS.attention_layers)
    norm, *inner, out = (f"{theirs}.{name}" for name in names.attention_layers)
    rules = [*_layer(norm, ours_norm), *_layer(out, ours_out)]
    if len(inner) == 1:
        for part in ("weight", "bias"):
            three = tuple(f"{name}.{part}" for name in ours_inner)
            rules.append(Rule((f"{inner[0]}.{part}",), three, lambda w: w.chunk(3), lambda *w: (torch.cat(w),)))
    else:
        rules += [rule for pair in zip(inner, ours_inner, strict=True) for rule in _layer(*pair)]
    if names.linear:
        kernels = {f"{layer}.weight" for layer in (*inner, out)}
        rules = [replace(r, read=_pointwise, write=_matrix) if r.theirs[0] in kernels else r for r in rules]
    return rules


def _pointwise(matrix: Tensor) -> tuple[Tensor]:
    """[out, in] -> [out, in, 1, 1]"""
    return (matrix[..., None, None],)


def _matrix(kernel: Tensor) -> tuple[Tensor]:
    return (kernel[..., 0, 0],)


KEYMAPS = {
    "encodec-24khz": encodec((8, 5, 4, 2)),
    "encodec-48khz": encodec((8, 5, 4, 2), weight_norm=False),
    "llamagen-f16": llamagen(5),
    "llamagen-f8": llamagen(4),
    "taming-f16": vqgan(5),
    "var-vqvae": var_vqvae(5, scales=10),
}
