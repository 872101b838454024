"""Builds a free 16 kHz speech corpus from voices that Debian packages: `python -m zoo.recipes.data.debian_voices`.

    python -m zoo.recipes.data.debian_voices --out data/speech-16khz

writes `OUT/{train,valid,test-seen,test-unseen,held-out-short}/SPEAKER/NAME.flac` and `OUT/corpus.json` (counts,
seconds, credits and licences). Run again, it continues where it was stopped and leaves finished files alone. It needs
ffmpeg, and takes what is not installed from the package archive with apt.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from zoo.codecs.errors import UserError
from zoo.recipes.data.debian_clips import check_ffmpeg, describe, write_clips
from zoo.recipes.data.debian_prompts import PROMPT_CREDITS, prompt_clips
from zoo.recipes.data.debian_synthetic import SYNTHETIC_CREDITS, synthetic_clips
from zoo.recipes.data.debian_words import WORD_CREDITS, word_clips

SOURCES = {"prompts": prompt_clips, "words": word_clips, "synthetic": synthetic_clips}

CREDITS = [*PROMPT_CREDITS, *WORD_CREDITS, *SYNTHETIC_CREDITS]


def build(out: Path, cache: Path, sources: list[str], processes: int) -> dict:
    """Write every clip of the named sources below `out`, then `out/corpus.json`; its contents."""
    check_ffmpeg()
    refused: dict[str, str] = {}
    for source in sources:
        refused |= write_clips(out, SOURCES[source](cache), f"{source:>9}", processes)
    corpus = describe(out, refused, CREDITS)
    (out / "corpus.json").write_text(json.dumps(corpus, indent=1, ensure_ascii=False) + "\n")
    return corpus


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/speech-16khz"), help="folder of the corpus")
    parser.add_argument("--cache", type=Path, default=Path(".cache/debian"), help="folder for downloaded packages")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="what to include")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="decoders that run at once")
    options = parser.parse_args(arguments)
    try:
        corpus = build(options.out, options.cache, options.sources, options.processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for split, total in corpus["total"].items():
        print(f"{split:>15}: {total['clips']:5} clips, {total['seconds'] / 60:6.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
