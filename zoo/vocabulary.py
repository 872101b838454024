"""Text as tokens and back: bytes, or the pieces of bytes of a byte-level BPE; and one token behind each text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from zoo.codecs.errors import UserError

BYTES = json.dumps({"pieces": "bytes"})


class Vocabulary:
    """Which bytes each token stands for. Behind all of them comes `end`, the token behind a text, of no bytes.

    Attributes:
        content: What it was made of, for `Vocabulary(content)`.
        pieces: Bytes of each token.
        end: The token behind a text.
        card: Number of tokens, `end` among them.
        sizes: Number of bytes of each token.

    Args:
        content: JSON of a byte-level BPE as `tokenizers` writes it; default: the 256 bytes.

    Raises:
        UserError: It is no such JSON, or `tokenizers` is not installed.
    """

    def __init__(self, content: str = BYTES) -> None:
        self.content = content
        self._bpe = None if content == BYTES else _read(content)
        if self._bpe is None:
            self.pieces = [bytes([byte]) for byte in range(256)]
        else:
            byte_of = {character: byte for byte, character in enumerate(byte_characters())}
            names = [self._bpe.id_to_token(token) for token in range(self._bpe.get_vocab_size())]
            try:
                self.pieces = [bytes(byte_of[character] for character in name) for name in names]
            except KeyError as error:
                raise UserError(f"the vocabulary is no byte-level BPE: {error} stands for no byte") from None
        self.end = len(self.pieces)
        self.card = self.end + 1
        self.sizes: Int64[Tensor, "card"] = torch.tensor([*map(len, self.pieces), 0])

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without `end`."""
        return list(text.encode()) if self._bpe is None else self._bpe.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Bytes of tokens; `end` has none.

        Raises:
            ValueError: A number that is no token.
        """
        found = []
        for token in tokens:
            if not 0 <= token < self.card:
                raise ValueError(f"token {token} is outside the vocabulary; tokens are 0 .. {self.end}")
            found.append(self.pieces[token] if token != self.end else b"")
        return b"".join(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)


def byte_characters() -> list[str]:
    """The printable character by which a byte-level BPE writes each byte (Radford et al., GPT-2).

    Printable characters of Latin-1 stand for themselves, all others follow from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def train_bpe(texts: Sequence[str], card: int) -> Vocabulary:
    """The byte-level BPE of these texts with so many tokens, `end` among them; the same texts give the same one.

    Raises:
        ValueError: Not even room for all bytes.
        UserError: `tokenizers` is not installed.
    """
    if card < 257:
        raise ValueError(f"a vocabulary of {card} has no room for the 256 bytes and the end; ask for 257 or more")
    library = _tokenizers()
    bpe = library.Tokenizer(library.models.BPE())
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(byte_characters())
    trainer = library.trainers.BpeTrainer(vocab_size=card - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != card - 1:
        raise ValueError(f"the texts have pairs for {bpe.get_vocab_size() + 1} tokens only; ask for fewer than {card}")
    return Vocabulary(bpe.to_str())


def _read(content: str):
    try:
        return _tokenizers().Tokenizer.from_str(content)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare exceptions
        raise UserError(f"the vocabulary is neither {BYTES} nor JSON of a tokenizer ({error})") from None


def _tokenizers():
    try:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers  # noqa: F401  (attributes of the package from now on)
    except ImportError:
        raise UserError("BPE vocabularies need the package tokenizers; install media-token-zoo[hf]") from None
    return tokenizers
