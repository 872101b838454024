"""Declarative maps between foreign weights and ours: renaming rules that work both ways, with hooks for fused tensors.

A name template has fields in braces: `{n}` stands for one part of a dotted name. A rule whose names fit turns the
tensors on one side into those on the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
    """

    rules: tuple[Rule, ...]
    aliases: tuple[tuple[str, str], ...] = field(default=())

    def read(self, theirs: Tensors) -> Tensors:
        """Our state dict from their tensors.

        Raises:
            ValueError: A tensor that no rule knows, or one that a rule needs and that is missing.
        """
        for pattern, replacement in self.aliases:
            theirs = {re.sub(pattern, replacement, name): tensor for name, tensor in theirs.items()}
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


KEYMAPS = {
    "encodec-24khz": encodec((8, 5, 4, 2)),
    "encodec-48khz": encodec((8, 5, 4, 2), weight_norm=False),
}
