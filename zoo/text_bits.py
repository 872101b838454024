"""How well a decoder of text knows unseen text, in bits a byte, beside gzip and xz: `python -m zoo.text_bits MODEL`.

    python -m zoo.text_bits autoregressive.text --data data/text --split test -o bits.json

Each document is told on its own, from its first byte to its end: no decoder sees another document, and no compressor
either, unless it is given all as one file. Sizes are those of whole files, headers and all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.layouts import Parallel
from zoo.recipes.data.byte_text import ByteCorpus


@dataclass(frozen=True)
class TextBits:
    """Bits of a byte of one split of a corpus.

    Attributes:
        documents, bytes, tokens: How much was told; tokens count the end of each document.
        decoder: Of the decoder.
        gzip, xz: Of the compressors at their strongest, each document a file.
        gzip_whole, xz_whole: All documents one file.
    """

    documents: int
    bytes: int
    tokens: int
    decoder: float
    gzip: float
    xz: float
    gzip_whole: float
    xz_whole: float


def measure(model: TokenModel, corpus: ByteCorpus, rows: int = 4) -> TextBits:
    """Bits a byte of all documents of a corpus.

    Args:
        model: Of text, causal, in eval mode.
        corpus: What to tell.
        rows: Windows that are run at once.

    Raises:
        UserError: The model is no decoder of text.
    """
    facts = getattr(model, "tokens", None)
    if facts is None or facts.vocabulary is None or not isinstance(facts.layout, Parallel) or not model.info.causal:
        raise UserError("bits of a byte are those of a causal decoder of text")
    documents = [corpus.document(number) for number in range(len(corpus.names))]
    nats, tokens = 0.0, 0
    for document in track(documents, "telling", console=Console(stderr=True)):
        codes = torch.tensor([facts.vocabulary.end, *facts.vocabulary.encode(document.decode()), facts.vocabulary.end])
        tokens += len(codes) - 1
        nats += sum(_nats(model, windows) for windows in _windows(codes, model.info.context, rows))
    size = sum(map(len, documents))
    whole = b"".join(documents)
    return TextBits(
        documents=len(documents),
        bytes=size,
        tokens=tokens,
        decoder=nats / math.log(2) / size,
        gzip=8 * sum(len(gzip.compress(document, 9)) for document in documents) / size,
        xz=8 * sum(len(_xz(document)) for document in documents) / size,
        gzip_whole=8 * len(gzip.compress(whole, 9)) / size,
        xz_whole=8 * len(_xz(whole)) / size,
    )


def _windows(codes: Int[Tensor, "n"], context: int, rows: int) -> Iterator[list[tuple[Tensor, int]]]:
    """Windows of the tokens, and how many at the end of each are asked for: each token but the first once.

    All but those of the first window have half the context or more in front of them.
    """
    step, windows = max(1, context // 2), []
    for begin in range(0, len(codes) - 1, step):
        first = max(0, begin + step - context)
        window = codes[first : begin + step + 1]
        windows.append((window, len(window) - 1 - (begin - first)))
    for k in range(0, len(windows), rows):
        yield windows[k : k + rows]


@torch.inference_mode()
def _nats(model: TokenModel, windows: list[tuple[Tensor, int]]) -> float:
    """Of the tokens that are asked for; windows of one length are run together."""
    total = 0.0
    for length in {len(window) for window, _ in windows}:
        alike = [entry for entry in windows if len(entry[0]) == length]
        batch = torch.stack([window for window, _ in alike])
        logits = model(batch[:, :-1, None]).logits[:, :, 0]
        for row, (window, asked) in zip(logits, alike, strict=True):
            total += float(cross_entropy(row[-asked:].double(), window[-asked:], reduction="sum"))
    return total


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a decoder of text: bundled name, directory or hf-hub:user/repo@revision")
    parser.add_argument("--data", type=Path, default=Path("data/text"), help="corpus of zoo.recipes.data.byte_text")
    parser.add_argument("--split", default="test", help="which documents of it")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        model = registry.load(options.model)
        if not isinstance(model, TokenModel):
            raise UserError(f"{options.model} is a codec; bits of a byte are those of a decoder of text")
        found = measure(model, ByteCorpus(options.data, options.split))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    result = {"model": options.model, "split": options.split} | asdict(found)
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
