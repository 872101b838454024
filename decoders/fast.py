"""Weights prepared for decoding: laid out, or stored in fewer bits, as products with a few rows read them fastest.

Such products wait for weights: each of these is read once a step and serves one number of each row. So the time of a
step is that of reading all matrices, and half the bits take half of it.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from zoo.decoders.transformer import Transformer

WEIGHTS: dict[str, torch.dtype | None] = {
    "float32": None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
"""By their names, as `for_decoding` takes them."""
ROWS = 8  # that matrices are packed for; more and less are possible
Model = TypeVar("Model", bound=nn.Module)


def for_decoding(model: Model, weights: torch.dtype | None = None) -> Model:
    """Prepare the matrices of linear layers in place, for decoding on a CPU; returns the model.

    Args:
        weights: None changes nothing but the order in memory: matrices of more outputs than inputs, as of heads, are
            stored by columns. Shapes, names and values stay, and products with a few rows become up to twice as fast,
            those of large batches no slower. An embedding that shares its matrix with a head looks its rows up in it
            all the same. The other types are for models that do nothing else any more. `torch.float16`: see
            `HalfLinear`; the fastest for a single row. `torch.bfloat16`: the layers of transformers as `BrainLinear`,
            which takes nearly the same time for one row as for eight, as drafts and small batches need it; heads, whose
            results must be finer, as `HalfLinear`. `torch.int8`: all as `ByteLinear`, the fastest of all, for which
            inputs are rounded too.

    Raises:
        ValueError: Another type of weights, a model that does not compute in float32, a processor that does not
            compute in them.
    """
    if weights is None:
        for linear in _linears(model).values():
            if linear.out_features > linear.in_features:
                linear.weight.data = linear.weight.data.T.contiguous().T
        return model
    if weights not in WEIGHTS.values():
        others = ", ".join(name for name, dtype in WEIGHTS.items() if dtype is not None)
        raise ValueError(f"weights of {weights} are not supported, only None, as they are, {others}")
    inside = [f"{name}." for name, module in model.named_modules() if isinstance(module, Transformer)]
    for name, linear in _linears(model).items():
        if linear.weight.dtype != torch.float32 or linear.weight.device.type != "cpu":
            given = f"{linear.weight.dtype} on {linear.weight.device}"
            raise ValueError(f"only float32 on a CPU is packed, not {given}; call model.float().cpu() before")
        brain = BrainLinear if name.startswith(tuple(inside)) else HalfLinear
        packed = {torch.float16: HalfLinear, torch.bfloat16: brain, torch.int8: ByteLinear}[weights]
        model.set_submodule(name, packed(linear))
    return model


class BrainLinear(nn.Module):
    """A linear layer whose matrix lies in bfloat16, packed by oneDNN; inputs and outputs are rounded to that.

    Each row is stored in units of 1/127 of its largest number, so that weights which come from whole numbers of eight
    bits stay exactly what they are. Others are rounded to 8 bits. It has no parameters: it neither trains nor is saved.

    Args:
        linear: Whose weights, in float32 on a CPU, it takes over.

    Raises:
        ValueError: The processor does not compute in bfloat16.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise ValueError("this processor does not compute in bfloat16; take float16, or None")
        weight = linear.weight.detach()
        scales = _largest(weight) / 127
        whole = weight / scales
        self.scale = scales[:, 0]
        near = whole.round()
        whole = torch.where((whole - near).abs() < 1e-3, near, whole)  # what division has left of whole numbers
        self.packed = torch.ops.mkldnn._reorder_linear_weight(whole.bfloat16(), ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        found = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, None, "none", [], "") * self.scale
        return found if self.bias is None else found + self.bias


class HalfLinear(nn.Module):
    """A linear layer whose matrix lies in float16, packed by FBGEMM; inputs, sums and outputs are float32.

    It has no parameters: it neither trains nor is saved. Weights are rounded to 11 bits, those beyond 65504 to that.

    Args:
        linear: Whose weights, in float32 on a CPU, it takes over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), linear.bias)
        self._parts: dict[tuple[int, int], torch.ScriptObject] = {}

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

    def rows(self, x: Float[Tensor, "*rows D"], first: int, last: int) -> Float[Tensor, "*rows part"]:
        """Of some outputs alone, whose rows of the matrix are packed once more when they are first asked for."""
        if (first, last) not in self._parts:
            weight, bias = torch.ops.quantized.linear_unpack_fp16(self.packed)
            part = weight[first:last].contiguous(), None if bias is None else bias[first:last].contiguous()
            self._parts[first, last] = torch.ops.quantized.linear_prepack_fp16(*part)
        return torch.ops.quantized.linear_dynamic_fp16(x, self._parts[first, last])


class ByteLinear(nn.Module):
    """A linear layer whose matrix lies in int8, packed by FBGEMM; inputs are rounded to int8, outputs are float32.

    Each row of the matrix, and each row of the input, is stored in units of 1/127 of its largest number (as LLM.int8,
    Dettmers et al., arXiv 2208.07339, has it without outliers). Sums are of whole numbers and so have no rounding: what
    a row gives doesn't depend on how many others it is run with. Weights that come from whole numbers of eight bits
    stay exactly what they are. It has no parameters: it neither trains nor is saved.

    Args:
        linear: Whose weights, in float32 on a CPU, it takes over.

    Raises:
        ValueError: This build of torch has no FBGEMM.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        if not has_fbgemm():
            raise ValueError("this processor has no products of int8; take None, which is float32")
        weight = linear.weight.detach()
        scales = _largest(weight) / 127
        self.packed = _packed_bytes((weight / scales).round().to(torch.int8), scales[:, 0])
        self.bias = None if linear.bias is None else linear.bias.detach()
        # Without VNNI, products are summed by twos in 16 bits, which hold them if inputs have 7 bits.
        self.steps = 127 if torch.cpu._is_vnni_supported() else 63
        self._parts: dict[tuple[int, int], torch.ScriptObject] = {}

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        found = self._product(x, self.packed)
        return found if self.bias is None else found + self.bias

    def rows(self, x: Float[Tensor, "*rows D"], first: int, last: int) -> Float[Tensor, "*rows part"]:
        """Of some outputs alone, whose rows of the matrix are packed once more when they are first asked for."""
        if (first, last) not in self._parts:
            weight, _ = torch.ops.quantized.linear_unpack(self.packed)
            part = slice(first, last)
            self._parts[first, last] = _packed_bytes(weight.int_repr()[part], weight.q_per_channel_scales()[part])
        found = self._product(x, self._parts[first, last])
        return found if self.bias is None else found + self.bias[first:last]

    def _product(self, x: Tensor, packed: torch.ScriptObject) -> Tensor:
        largest, product = _largest(x), torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return product(x / largest, 1 / self.steps, self.steps + 1, packed) * largest


def _largest(x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows 1"]:
    """The largest magnitude of each row; of a row of zeros something to divide it by."""
    return x.abs().amax(-1, True).clamp_(min=torch.finfo(x.dtype).tiny)


def _packed_bytes(whole: Int8[Tensor, "E D"], scales: Float[Tensor, "E"]) -> torch.ScriptObject:
    none = torch.zeros(len(scales), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(whole, scales.double(), none, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


def has_fbgemm() -> bool:
    """Whether `HalfLinear` and `ByteLinear` work here."""
    return bool({"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines))


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
