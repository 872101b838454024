"""Builds a free corpus of photographs from pictures that Debian packages: `python -m zoo.recipes.data.debian_pictures`.

    python -m zoo.recipes.data.debian_pictures --out data/pictures

writes `OUT/{train,valid}/SOURCE/NAME.{jpg,png}` and `OUT/corpus.json` (counts, megapixels, credits and licences). Run
again, it continues where it was stopped and leaves finished files alone. What is not installed is taken from the
package archive with apt.
"""

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image
from rich.progress import track

from zoo.codecs.errors import UserError
from zoo.recipes.data.debian_photographs import LEAST_SIDE, LONGEST, PHOTOGRAPH_CREDITS, Photograph, photographs
from zoo.recipes.data.debian_stamps import STAMP_CREDITS, composite, stamps

COMPOSITES = 1200
# Two encodings of one photograph differ in at most 9 of 256 bits, two photographs in at least 42 (measured here).
MOST_BITS_ALIKE = 25


def build(out: Path, cache: Path, composites: int, processes: int) -> dict:
    """Write every picture below `out`, then `out/corpus.json`; its contents."""
    kept, refused = distinct(photographs(cache))
    with ProcessPoolExecutor(processes) as pool:
        writing = pool.map(partial(write_photograph, out), kept, chunksize=4)
        list(track(writing, "photographs", total=len(kept)))
        backgrounds = sorted((out / "train").glob("*/*.jpg"))
        backgrounds = [path for path in backgrounds if path.parent.name != "composite"]
        writing = pool.map(
            partial(write_composite, out / "train" / "composite", backgrounds=backgrounds, objects=stamps(cache)),
            range(composites),
            chunksize=16,
        )
        list(track(writing, " composites", total=composites))
    corpus = describe(out, refused)
    (out / "corpus.json").write_text(json.dumps(corpus, indent=1, ensure_ascii=False) + "\n")
    return corpus


def distinct(pictures: list[Photograph]) -> tuple[list[Photograph], dict[str, str]]:
    """Readable pictures, each once and the largest copy of it, and why others were refused."""
    refused, readable = {}, []
    for picture in track(pictures, "  comparing"):
        try:
            image = picture.read(LONGEST)
        except OSError as error:
            refused[f"{picture.source}/{picture.name}"] = f"unreadable: {error}"
            continue
        if min(image.size) < LEAST_SIDE:
            refused[f"{picture.source}/{picture.name}"] = f"{image.width} x {image.height} pixels"
            continue
        readable.append((image.width * image.height, picture, fingerprint(image)))
    kept: list[tuple[Photograph, ndarray]] = []
    for _, picture, bits in sorted(readable, key=lambda entry: (-entry[0], entry[1].name)):
        twin = next((other.name for other, seen in kept if (bits != seen).sum() <= MOST_BITS_ALIKE), None)
        if twin:
            refused[f"{picture.source}/{picture.name}"] = f"the same picture as {twin}"
        else:
            kept.append((picture, bits))
    return [picture for picture, _ in kept], refused


def fingerprint(image: Image.Image) -> Bool[ndarray, "256"]:
    """Where the picture, seen at 17 x 16 pixels, gets lighter from left to right."""
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX)).astype(int)
    return (small[:, 1:] > small[:, :-1]).ravel()


def split_of(source: str, name: str) -> str:
    """The split of a photograph, a fixed function of its source and name.

    `valid` if the SHA-256 of `source/name`, as an integer, is divisible by 16, else `train`.
    """
    return "train" if int(hashlib.sha256(f"{source}/{name}".encode()).hexdigest(), 16) % 16 else "valid"


def write_photograph(out: Path, picture: Photograph) -> None:
    """The picture at most `LONGEST` pixels a side; a detailed one for training also at twice that, in four tiles."""
    split = split_of(picture.source, picture.name)
    folder = out / split / picture.source
    _write(folder / f"{picture.name}{'.jpg' if split == 'train' else '.png'}", lambda: picture.read(LONGEST))
    if split == "train" and picture.detailed:
        tiles = [folder / f"{picture.name}-tile{k}.jpg" for k in range(4)]
        if not tiles[-1].exists():  # pictures that are too small for tiles are looked at again
            whole = picture.read(2 * LONGEST)
            if max(whole.size) == 2 * LONGEST:
                width, height = whole.width // 2, whole.height // 2
                for k, path in enumerate(tiles):
                    left, top = k % 2 * width, k // 2 * height
                    _write(path, partial(whole.crop, (left, top, left + width, top + height)))


def write_composite(folder: Path, number: int, backgrounds: list[Path], objects: list[Path]) -> None:
    """Composite number `number` of the training photographs."""
    _write(folder / f"{number:04}.jpg", lambda: composite(number, backgrounds, objects))


def describe(out: Path, refused: dict[str, str]) -> dict:
    """Pictures and megapixels of each split and source below `out`, credits, and what was refused and why."""
    splits: dict[str, dict[str, dict]] = {}
    for folder in sorted(path for path in out.glob("*/*") if path.is_dir()):
        pixels = []
        for path in (*folder.glob("*.jpg"), *folder.glob("*.png")):
            with Image.open(path) as picture:
                pixels.append(picture.width * picture.height)
        splits.setdefault(folder.parent.name, {})[folder.name] = {
            "pictures": len(pixels),
            "megapixels": round(sum(pixels) / 1e6, 1),
        }
    present = {source for sources in splits.values() for source in sources}
    return {
        "total": {
            split: {key: round(sum(entry[key] for entry in sources.values()), 1) for key in ("pictures", "megapixels")}
            for split, sources in splits.items()
        },
        "splits": splits,
        "credits": [entry for entry in (*PHOTOGRAPH_CREDITS, *STAMP_CREDITS) if entry["source"] in present],
        "refused": {"count": len(refused), "reasons": dict(sorted(refused.items()))},
    }


def _write(path: Path, make) -> None:
    """Write what `make` gives unless the file exists; it appears under its name only when complete."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(f".{os.getpid()}.partial")
    kind = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 95, "subsampling": 0}
    try:
        make().save(partial_path, **kind)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/pictures"), help="folder of the corpus")
    parser.add_argument("--cache", type=Path, default=Path(".cache/debian"), help="folder for downloaded packages")
    parser.add_argument("--composites", type=int, default=COMPOSITES, help="how many composites to make")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="pictures made at once")
    options = parser.parse_args(arguments)
    try:
        corpus = build(options.out, options.cache, options.composites, options.processes)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for split, total in corpus["total"].items():
        print(f"{split:>6}: {total['pictures']:5} pictures, {total['megapixels']:7.1f} megapixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
