"""Train the head of a draft model that foretells whether what it drafts will stand, on what becomes of its drafts.

    python -m zoo.acceptance_training NAME DRAFT -o head.safetensors --prompt "def area(" "import os"

`zoo generate NAME --proposer specdec:DRAFT,head=head.safetensors` then stops drafting where a rejection is likely.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.decoders.acceptance import AcceptanceHead, Verdicts, train_acceptance
from zoo.decoders.sampling.proposers import Watched
from zoo.generation import generate
from zoo.generation_drafts import draft_of


def train_head(
    decoder: Any, draft: str, prompts: Sequence[str | Path | None], updates: int = 500, **settings: Any
) -> AcceptanceHead:
    """A head for the draft model of that name, from what it drafts behind each prompt.

    Args:
        updates: Of training.
        settings: Of `zoo.generate`, with which the head is to be used: temperature, count, window, steps, ...

    Raises:
        UserError: A draft of other tokens, a decoder that cannot do what is asked.
    """
    model, verdicts = draft_of(decoder, draft), list[Verdicts]()
    for prompt in prompts:
        watched = Watched(model)
        generate(decoder, prompt=prompt, proposer=watched, **settings)
        verdicts += watched.verdicts
    try:
        head = AcceptanceHead(model.info.width, model.info.codebooks)
        train_acceptance(head, verdicts, updates)
    except ValueError as error:
        raise UserError(f"{error}; ask for more steps") from None
    return head


def main() -> None:
    """Train the head of a draft model that foretells whether what it drafts will stand."""
    parser = ArgumentParser(prog="python -m zoo.acceptance_training", description=main.__doc__)
    parser.add_argument("model", help="bundled name or folder of a decoder that goes step by step")
    parser.add_argument("draft", help="bundled name or folder of the smaller decoder that drafts for it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--prompt", nargs="+", default=[None], help="what to go on with: texts, or files")
    parser.add_argument("--count", type=int, default=8, help="samples behind each prompt")
    parser.add_argument("--steps", type=int, default=128, help="of each sample")
    parser.add_argument("--window", type=int, default=8, help="longest draft")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--updates", type=int, default=500, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        head = train_head(
            registry.load_decoder(chosen.model, "cpu"), chosen.draft, chosen.prompt, chosen.updates, count=chosen.count,
            steps=chosen.steps, window=chosen.window, temperature=chosen.temperature, seed=chosen.seed,
        )  # fmt: skip
    except UserError as error:
        parser.error(str(error))
    head.save(chosen.output)
    weights = sum(part.numel() for part in head.parameters())
    print(f"{chosen.output}: a head for {chosen.draft}, which drafts for {chosen.model}, of {weights} weights")


if __name__ == "__main__":
    main()
