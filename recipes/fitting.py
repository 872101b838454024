"""Whether data fits a decoder, looked at before training begins."""

from typing import Any

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import BYTES, ConditionEncoder
from zoo.decoders.layouts import Layout


def check_conditions(decoder: TokenModel, labels: int) -> None:
    """
    Args:
        labels: How many the data has.

    Raises:
        UserError: More than the decoder's classes; or it is to be told texts of other ids than bytes.
    """
    for config in (module.config for module in decoder.modules() if isinstance(module, ConditionEncoder)):
        if config.classes and labels > config.classes:
            raise UserError(
                f"the data has {labels} labels, the decoder's conditions {config.classes} classes; use fewer, "
                f"--data.voices='[NAME, ...]', or give the conditions classes: {labels}"
            )
        if config.text not in (0, BYTES):
            raise UserError(
                f"the decoder's conditions take texts of a vocabulary of {config.text} ids, and recipes give texts as "
                f"UTF-8 bytes; give the conditions text: {BYTES}"
            )


def check_lengths(decoder: TokenModel, layout: Layout, data: Any) -> None:
    """
    Args:
        data: May tell `largest`, the grids of its largest items; see `zoo.recipes.data.token_sets.TokenSets`.

    Raises:
        UserError: Items of more steps than the decoder's context.
    """
    context, unread = decoder.info.context, int(decoder.info.causal)  # what comes behind the last step is not asked
    for shape in getattr(data, "largest", ()):
        if (steps := layout.steps(shape) - unread) > context:
            raise UserError(
                f"the data has items of {' x '.join(map(str, shape))} cells, which are {steps} steps to read, and the "
                f"decoder's context is {context}; leave them out, --data.longest=CELLS, or give it a longer context"
            )
