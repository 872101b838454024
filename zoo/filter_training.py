"""Train the filter of a masked decoder that says which candidates are final, on what the decoder makes.

    python -m zoo.filter_training NAME -o filter.safetensors

`zoo generate NAME --chooser learned:filter.safetensors` then ends sooner. See `zoo.decoders.sampling.choosers.Learned`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.decoders.conditioning import Conditions
from zoo.decoders.sampling.choosers import Chooser, Confidence, Filter, Watched, trained_filter
from zoo.filter_files import write_filter
from zoo.generation import generate
from zoo.generation_choice import CHOICE
from zoo.generation_media import codec_for


def train_filter(decoder: Any, labels: Sequence[str | None], steps: int = 500, **settings: Any) -> Filter:
    """A filter for a decoder, from what it makes of each class.

    Args:
        labels: Classes; None is no class.
        steps: Of training.
        settings: Of `zoo.generate`, with which the filter is to be used: guidance, temperature, passes, ...

    Raises:
        UserError: A decoder that does not fill in, or that cannot do what is asked.
    """
    if decoder.info.causal:
        raise UserError("a filter is for decoders that fill in, and this one goes step by step")
    facts = decoder.tokens
    medium = "text" if facts.vocabulary else codec_for(facts, settings.get("codec"), "cpu").info.media
    examples = []
    for label in labels:
        runs: list[Watched] = []

        def watched(_: Conditions | None, runs: list[Watched] = runs) -> Chooser:
            runs.append(Watched(Confidence(CHOICE[medium])))
            return runs[-1]

        made = generate(decoder, label=label, chooser=watched, **settings)
        for run, result in zip(runs, made.results, strict=True):
            examples += run.examples(result.codes)
    try:
        return trained_filter(examples, steps)
    except ValueError as error:
        raise UserError(f"{error}; ask for more passes") from None


def main() -> None:
    """Train the filter of a masked decoder that says which candidates are final."""
    parser = ArgumentParser(prog="python -m zoo.filter_training", description=main.__doc__)
    parser.add_argument("model", help="bundled name or folder of a decoder that fills in")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--class", dest="labels", nargs="*", help="classes; default: all that it knows")
    parser.add_argument("--count", type=int, default=8, help="samples of each class")
    parser.add_argument("--text", help="what to say")
    parser.add_argument("--prompt", help="what to go on with")
    parser.add_argument("--passes", type=int, nargs="+", help="of all codebooks, or of each in turn")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=500, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        decoder: Any = registry.load_decoder(chosen.model, "cpu")
        labels = chosen.labels or decoder.tokens.labels or [None]
        passes = chosen.passes[0] if chosen.passes and len(chosen.passes) == 1 else chosen.passes
        network = train_filter(
            decoder, labels, chosen.steps, count=chosen.count, text=chosen.text, prompt=chosen.prompt, passes=passes,
            temperature=chosen.temperature, guidance=chosen.guidance, seed=chosen.seed,
        )  # fmt: skip
    except UserError as error:
        parser.error(str(error))
    write_filter(chosen.output, network)
    print(f"{chosen.output}: a filter for {chosen.model}, of {sum(p.numel() for p in network.parameters())} weights")


if __name__ == "__main__":
    main()
