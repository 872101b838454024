"""Ids of the texts that a decoder is told: those of any tokenizer, since nothing has to make text of them again."""

from __future__ import annotations

from pathlib import Path

from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.vocabulary import Vocabulary, read_tokenizer, tokenizer_of


class TextVocabulary:
    """What a tokenizer makes of texts; where there is none, texts are told as their bytes.

    Attributes:
        content: JSON of the tokenizer as `tokenizers` writes it, such as a `tokenizer.json`.
        size: Ids are below this.

    Args:
        content: That, or the content of a `Vocabulary` other than that of bytes.

    Raises:
        UserError: It is neither, or `tokenizers` is not installed.
    """

    def __init__(self, content: str) -> None:
        self._tokenizer = read_tokenizer(tokenizer_of(content))
        self._tokenizer.no_truncation()  # else texts are cut or filled up to the length that someone trained with
        self._tokenizer.no_padding()
        self.content = self._tokenizer.to_str()
        self.size = max(self._tokenizer.get_vocab().values(), default=-1) + 1

    @classmethod
    def read(cls, path: str | Path) -> TextVocabulary:
        """Of a file.

        Raises:
            UserError: It can't be read, or is no tokenizer's.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{printable(path)}: {error}; give the tokenizer.json of a tokenizer") from None
        except UserError as error:
            raise UserError(f"{printable(path)}: {error}") from None

    @classmethod
    def written_by(cls, vocabulary: Vocabulary) -> TextVocabulary | None:
        """Of what a decoder of text writes, for those that it tells; None: bytes."""
        return None if vocabulary == Vocabulary() else cls(vocabulary.content)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with those that the tokenizer puts around each."""
        return self._tokenizer.encode(text).ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextVocabulary) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)
