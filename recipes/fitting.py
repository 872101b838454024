"""Whether data fits a decoder, looked at before training begins."""

from typing import Any

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import BYTES, ConditionEncoder
from zoo.decoders.layouts import Layout
from zoo.decoders.zipper import Zipper
from zoo.recipes.data.byte_text import ByteText
from zoo.text_vocabulary import TextVocabulary


def check_conditions(decoder: TokenModel, labels: int, vocabulary: TextVocabulary | None) -> None:
    """
    Args:
        labels: How many the data has.
        vocabulary: Of its texts; None: they are told as their bytes.

    Raises:
        UserError: More than the decoder's classes; texts of more or fewer ids than it knows; or ids that are no bytes
            where bytes are timed.
    """
    ids, whose = (BYTES, "UTF-8 bytes") if vocabulary is None else (vocabulary.size, f"one of {vocabulary.size} ids")
    for config in (module.config for module in decoder.modules() if isinstance(module, ConditionEncoder)):
        if config.classes and labels > config.classes:
            raise UserError(
                f"the data has {labels} labels, the decoder's conditions {config.classes} classes; use fewer, "
                f"--data.voices='[NAME, ...]', or give the conditions classes: {labels}"
            )
        if config.timed and vocabulary is not None:
            raise UserError(
                "the decoder's conditions tell when each byte of a text is heard (timed), and the data's texts come as "
                f"ids of another vocabulary, of {ids}; give them as bytes, --data.text=bytes, or set timed: false"
            )
        if config.text not in (0, ids):
            raise UserError(
                f"the decoder's conditions take texts of a vocabulary of {config.text} ids, and the data's is {whose}; "
                f"give the conditions text: {ids}, or name the right tokenizer: --data.text=TOKENIZER.json"
            )
    if isinstance(decoder, Zipper) and decoder.config.source == "text" and ids > (card := decoder.reader.info.cards[0]):
        raise UserError(
            f"the tower that reads texts knows {card} tokens, and the vocabulary of the data's texts is {whose}; fill "
            "the tower with a decoder of that vocabulary (towers_from), or name its tokenizer: --data.text"
        )


def check_lengths(decoder: TokenModel, layout: Layout, data: Any) -> None:
    """
    Args:
        data: May tell `largest`, the grids of its largest items; see `zoo.recipes.data.token_sets.TokenSets`.

    Raises:
        UserError: Items or windows of text of more steps than the decoder's context.
    """
    context, unread = decoder.info.context, int(decoder.info.causal)  # what comes behind the last step is not asked
    if isinstance(data, ByteText) and (beyond := layout.steps((data.length,)) - unread - context) > 0:
        raise UserError(
            f"the data has windows of {data.length} tokens, which are {context + beyond} steps to read, and the "
            f"decoder's context is {context}; give shorter ones, --data.length={data.length - beyond}, or a longer "
            "context"
        )
    for shape in getattr(data, "largest", ()):
        if (steps := layout.steps(shape) - unread) > context:
            raise UserError(
                f"the data has items of {' x '.join(map(str, shape))} cells, which are {steps} steps to read, and the "
                f"decoder's context is {context}; give it a longer context, or data of shorter items (token sets: "
                "--data.longest=CELLS)"
            )
