"""Token files of random crops of a corpus, at many rates: what the model of a picture codec's codes is trained on.

    python -m zoo.recipes.picture_tokens variable.photos data/pictures/train -o runs/picture-tokens
    python -m zoo.entropy_training runs/picture-tokens -o checkpoints/variable.photos/entropy.safetensors

Crops are drawn as the recipes of picture codecs draw them, so that a file holds whatever pictures hold at any size.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from zoo import registry
from zoo.codecs.depth import encode_at_rate
from zoo.codecs.image.base import ImageCodec
from zoo.container_writer import write_picture
from zoo.recipes.data.files import below
from zoo.recipes.data.picture_crops import PictureCropConfig, PictureCropSource
from zoo.recipes.data.picture_folder import find_pictures
from zoo.recipes.data.picture_store import PictureList, PictureStore


def write_tokens(
    codec: ImageCodec,
    pictures: Path,
    out: Path,
    count: int,
    crops: PictureCropConfig,
    rates: tuple[float, float] = (0.1, 0.7),
    beam: int = 8,
) -> list[Path]:
    """Tokenize `count` crops, each at a rate in bits per pixel drawn log-uniformly; files that exist are kept.

    Returns:
        The token files, not entropy coded: `OUT/000000.ztok` and on.

    Raises:
        UserError: No pictures in the folder.
        ValueError: A rate that is too low for the codec.
    """
    found = PictureList.of_files(below(pictures, find_pictures(pictures)))
    source = PictureCropSource(PictureStore(found, range(len(found.names)), in_memory=False), crops)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{number:06}.ztok" for number in range(count)]
    low, high = rates
    for number, path in enumerate(track(paths, "tokenize crops")):
        if path.exists():
            continue
        bpp = low * (high / low) ** np.random.default_rng([crops.seed, number]).random()
        crop = torch.from_numpy(source.crop(number))[None]
        write_picture(path, encode_at_rate(codec, crop, bpp=bpp, beam=beam), codec.info, "none")
    return paths


def main() -> None:
    """Write token files of random crops of pictures."""
    parser = ArgumentParser("python -m zoo.recipes.picture_tokens", description=main.__doc__)
    parser.add_argument("model", help="bundled name or folder of a picture codec with residual codes")
    parser.add_argument("pictures", type=Path, help="folder tree of pictures; composites count a quarter")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write; go on where it stopped")
    parser.add_argument("--count", type=int, default=1000, help="number of crops")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--rates", type=float, nargs=2, default=(0.1, 0.7), help="range of bits per pixel")
    parser.add_argument("--beam", type=int, default=8, help="width of the search for codes")
    parser.add_argument("--seed", type=int, default=2, help="of the crops; another than that of training")
    chosen = parser.parse_args()
    crops = PictureCropConfig(chosen.size, chosen.seed, {"composite": 0.25}, (0.33, 1.0), detail=0.01)
    codec = registry.load_codec(chosen.model)
    paths = write_tokens(codec, chosen.pictures, chosen.output, chosen.count, crops, chosen.rates, chosen.beam)
    print(f"{len(paths)} token files below {chosen.output}")


if __name__ == "__main__":
    main()
