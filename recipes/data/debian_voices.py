"""Builds a free 16 kHz speech corpus from voices that Debian packages: `python -m zoo.recipes.data.debian_voices`.

    python -m zoo.recipes.data.debian_voices --out data/speech-16khz

writes `OUT/{train,valid,test-seen,test-unseen,held-out-short}/SPEAKER/NAME.flac` and `OUT/corpus.json` (counts,
seconds, credits and licences). Run again, it continues where it was stopped and leaves finished files alone. It needs
ffmpeg, and takes what is not installed from the package archive with apt.
"""

import argparse
import fnmatch
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from rich.progress import track

from zoo.codecs.errors import UserError
from zoo.recipes.data.debian_clips import RATE, write_clip
from zoo.recipes.data.debian_prompts import PROMPT_CREDITS, prompt_clips
from zoo.recipes.data.debian_synthetic import SYNTHETIC_CREDITS, synthetic_clips
from zoo.recipes.data.debian_words import WORD_CREDITS, word_clips

SOURCES = {"prompts": prompt_clips, "words": word_clips, "synthetic": synthetic_clips}

CREDITS = [*PROMPT_CREDITS, *WORD_CREDITS, *SYNTHETIC_CREDITS]


def build(out: Path, cache: Path, sources: list[str], processes: int) -> dict:
    """Write every clip of the named sources below `out`, then `out/corpus.json`; its contents."""
    if not shutil.which("ffmpeg"):
        raise UserError(
            "ffmpeg, which decodes the recordings, is not installed; install it with: sudo apt install ffmpeg"
        )
    refused: dict[str, str] = {}
    for source in sources:
        clips = SOURCES[source](cache)
        # Threads, because the work is done by child processes: one ffmpeg or synthesizer for each clip.
        with ThreadPoolExecutor(processes) as pool:
            reasons = pool.map(lambda clip: write_clip(out, clip), clips)
            for clip, reason in zip(clips, track(reasons, f"{source:>9}", total=len(clips)), strict=True):
                if reason:
                    refused[f"{clip.speaker}/{clip.name}"] = reason
    corpus = describe(out, refused)
    (out / "corpus.json").write_text(json.dumps(corpus, indent=1, ensure_ascii=False) + "\n")
    return corpus


def describe(out: Path, refused: dict[str, str]) -> dict:
    """Clips and seconds of each split and speaker below `out`, credits, and what was refused and why."""
    splits: dict[str, dict[str, dict]] = {}
    for folder in sorted(path for path in out.glob("*/*") if path.is_dir()):
        seconds = [soundfile.info(path).duration for path in folder.rglob("*.flac")]
        splits.setdefault(folder.parent.name, {})[folder.name] = {"clips": len(seconds), "seconds": round(sum(seconds))}
    present = {speaker for speakers in splits.values() for speaker in speakers}
    return {
        "sample_rate": RATE,
        "total": {
            split: {key: sum(entry[key] for entry in speakers.values()) for key in ("clips", "seconds")}
            for split, speakers in splits.items()
        },
        "splits": splits,
        "credits": [entry for entry in CREDITS if fnmatch.filter(present, entry["speakers"])],
        "refused": {"count": len(refused), "reasons": dict(sorted(refused.items()))},
    }


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
