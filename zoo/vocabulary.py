"""Text as tokens and back: bytes, or pieces of bytes, ours or of a published model; and one token behind each text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from zoo.codecs.errors import UserError

BYTES = json.dumps({"pieces": "bytes"})
PUBLISHED = '{"pieces": "published"'  # what the content of a published vocabulary begins with


class Vocabulary:
    """Which bytes each token stands for, and which one is the `end`, the token behind a text, of no bytes.

    Of the 256 bytes and of our own BPE the end is the last token. Published models have it anywhere, beside other
    tokens of no bytes, such as that in front of each text.

    Attributes:
        content: What it was made of, for `Vocabulary(content)`.
        pieces: Bytes of each token; without the end if that is the last one of ours.
        end: The token behind a text.
        card: Number of tokens, `end` among them.
        sizes: Number of bytes of each token.

    Args:
        content: JSON of a byte-level BPE as `tokenizers` writes it, or the content of what `published` makes; default:
            the 256 bytes.

    Raises:
        UserError: It is no such JSON, or `tokenizers` is not installed.
    """

    def __init__(self, content: str = BYTES) -> None:
        self.content = content
        self._bpe, self.pieces, self.end = _opened(content)
        self.card = max(len(self.pieces), self.end + 1)
        self.sizes: Int64[Tensor, "card"] = torch.tensor([*map(len, self.pieces), 0][: self.card])

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without `end`; of a published model with the token in front of each text, if it has one."""
        return list(text.encode()) if self._bpe is None else self._bpe.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Bytes of tokens; `end` has none, and of a published model others may have none.

        Raises:
            ValueError: A number that is no token.
        """
        found = []
        for token in tokens:
            if not 0 <= token < self.card:
                raise ValueError(f"token {token} is outside the vocabulary; tokens are 0 .. {self.card - 1}")
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


def published(tokenizer: Mapping[str, Any], card: int, end: int) -> Vocabulary:
    """The vocabulary of a published model.

    Args:
        tokenizer: What its `tokenizer.json` holds.
        card: Tokens that the model has, perhaps more than the tokenizer; those stand for no bytes.
        end: The token behind a text.

    Raises:
        UserError: It is no tokenizer, has tokens that the model doesn't have, or makes text of tokens as we cannot;
            `tokenizers` is not installed.
    """
    return Vocabulary(json.dumps({"pieces": "published", "card": card, "end": end, "tokenizer": tokenizer}))


def tokenizer_of(content: str) -> str:
    """JSON of the tokenizer that the content of a vocabulary other than that of bytes is, or holds."""
    if not content.startswith(PUBLISHED):
        return content
    try:
        return json.dumps(json.loads(content)["tokenizer"])
    except (ValueError, KeyError) as error:
        raise _damaged(error) from None


def _opened(content: str) -> tuple[Any, list[bytes], int]:
    """What encodes (None: tokens are bytes), the bytes of each token, and the end."""
    if content == BYTES:
        return None, [bytes([byte]) for byte in range(256)], 256
    if content.startswith(PUBLISHED):
        return _opened_published(content)
    bpe, byte_of = read_tokenizer(content), _byte_of_character()
    names = [bpe.id_to_token(token) for token in range(bpe.get_vocab_size())]
    try:
        return bpe, [bytes(byte_of[character] for character in name) for name in names], len(names)
    except KeyError as error:
        raise UserError(f"the vocabulary is no byte-level BPE: {error} stands for no byte") from None


def _opened_published(content: str) -> tuple[Any, list[bytes], int]:
    try:
        values = json.loads(content)
        card, end, tokenizer = values["card"], values["end"], values["tokenizer"]
    except (ValueError, KeyError) as error:
        raise _damaged(error) from None
    library = read_tokenizer(json.dumps(tokenizer))
    library.no_truncation()  # else prompts are cut or filled up to the length that someone trained with
    library.no_padding()
    names, added = library.get_vocab(), library.get_added_tokens_decoder()
    if (known := max(names.values(), default=-1) + 1) > card or not 0 <= end < card:
        raise UserError(f"the tokenizer has {known} tokens and the end {end}, but the model has {card} tokens")
    piece, pieces = _piece_reader(tokenizer.get("decoder")), [b""] * card
    for name, token in names.items():
        if token not in added:
            pieces[token] = piece(name)
        elif not added[token].special:
            pieces[token] = name.encode()
    pieces[end] = b""
    return library, pieces, end


def _damaged(error: Exception) -> UserError:
    return UserError(f"the vocabulary is damaged ({error}); convert the published model again")


def _piece_reader(decoder: Any) -> Callable[[str], bytes]:
    """What tells the bytes of a token from its name, if a tokenizer makes text of tokens by this decoder."""
    parts = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else [decoder]
    kinds = [part and part.get("type") for part in parts]
    if kinds == ["ByteLevel"]:
        byte_of = _byte_of_character()
        return lambda name: bytes(byte_of[each] for each in name) if byte_of.keys() >= set(name) else name.encode()
    if all(map(_of_sentencepiece, parts)):
        return _sentencepiece_bytes if "ByteFallback" in kinds else lambda name: name.replace("▁", " ").encode()
    raise UserError(
        f"the tokenizer makes text of tokens by {kinds}; only ByteLevel (GPT-2, Llama 3, Qwen) and the parts that stand"
        " for SentencePiece (Llama 2, Mistral) can be read"
    )


def _of_sentencepiece(part: Any) -> bool:
    """Whether a decoder's part treats all tokens alike, as SentencePiece does, or trims the beginning of a text."""
    match part:
        case {"type": "Replace", "pattern": {"String": "▁"}, "content": " "} | {"type": "ByteFallback" | "Fuse"}:
            return True
        case {"type": "Metaspace", "replacement": "▁"} | {"type": "Strip", "content": " ", "stop": 0}:
            return True
    return False


def _sentencepiece_bytes(name: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", name)
    return bytes.fromhex(byte[1]) if byte else name.replace("▁", " ").encode()


def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def read_tokenizer(content: str) -> Any:
    """The `tokenizers.Tokenizer` of that JSON.

    Raises:
        UserError: It is no such JSON, or `tokenizers` is not installed.
    """
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
