"""How far a decoder is from the law of another one, and what it learns from that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from zoo.codecs.errors import UserError
from zoo.recipes.tally import IGNORED

Divergence = Literal["forward", "reverse", "jensen-shannon", "total-variation"]


@dataclass(frozen=True)
class Distillation:
    """Learning from the law of a larger decoder of the same tokens (Hinton et al., arXiv 1503.02531).

    For drafts, Zhou et al., "DistillSpec" (arXiv 2310.08461): a draft is judged where its own tokens led, so a share of
    the batches goes on with the beginnings of the data in tokens of its own. There, the loss is the divergence alone,
    behind what was given. Such a batch takes a pass for each step.

    Attributes:
        teacher: A model as `zoo.load` takes it, or the `last.ckpt` of a training run.
        temperature: Of both laws.
        weight: Of the divergence from the teacher's law; the cross-entropy of the data has the rest, 1 - weight.
        divergence: See `divergence`; the total variation is the share of drafts that rejection sampling turns down.
        guidance: Learn the teacher's law under classifier-free guidance of this scale, so that one stream says what two
            said (after Meng et al., "On Distillation of Guided Diffusion Models", arXiv 2210.03142).
        written: Share of the batches that are not the data's own.
        writer: Who writes these, each from its law.
        prompt: Share of the steps that is given there, at least the first one.
    """

    teacher: str
    temperature: float = 1.0
    weight: float = 0.5
    divergence: Divergence = "forward"
    guidance: float = 1.0
    written: float = 0.0
    writer: Literal["student", "teacher"] = "student"
    prompt: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or not self.temperature > 0:
            raise UserError(
                f"distillation needs a weight in 0 .. 1 and a temperature above 0, got {self.weight}, "
                f"{self.temperature}"
            )
        if not 0 <= self.written <= 1 or not 0 <= self.prompt <= 1:
            raise UserError(
                f"shares of the batches and of their steps lie in 0 .. 1, got {self.written}, {self.prompt}"
            )
        if not self.guidance > 0:
            raise UserError(f"guidance {self.guidance} is not above 0; 1 is none")


def divergence(
    logits: Float[Tensor, "R M S V"],
    teacher: Float[Tensor, "R M S V"],
    targets: Int[Tensor, "R M S"],
    temperature: float,
    kind: Divergence = "forward",
) -> Float[Tensor, ""]:
    """Mean divergence of the teacher's law p and the student's q over all targets.

    Kullback-Leibler divergence in nats, `forward` KL(p, q) or `reverse` KL(q, p); `jensen-shannon`, the mean of
    KL(p, m) and KL(q, m), where m is the mean of both; `total-variation`, half the sum of |p - q|, in 0 .. 1.

    Times the squared temperature, or of the total variation times the temperature, so that gradients keep their size at
    any.
    """
    known = targets != IGNORED
    student, law = (log_softmax(each[known] / temperature, -1) for each in (logits, teacher))
    possible = law > -torch.inf  # tokens behind a smaller codebook's card have probability 0 in both
    student, law = student.where(possible, 0), law.where(possible, 0)
    if kind == "forward":
        each = law.exp() * (law - student)
    elif kind == "reverse":
        each = student.exp() * (student - law)
    elif kind == "jensen-shannon":
        middle = torch.logaddexp(law, student) - math.log(2)
        each = (law.exp() * (law - middle) + student.exp() * (student - middle)) / 2
    else:
        each = (law.exp() - student.exp()).abs() / 2
    return (each * possible).sum(-1).mean() * temperature ** (1 if kind == "total-variation" else 2)
