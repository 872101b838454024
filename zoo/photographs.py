"""Six photographs to judge image codecs by, never to train them: `python -m zoo.photographs --out data/photographs`.

They lie inside scikit-image and scikit-learn (extra `eval`): an astronaut, a cat, a cup of coffee, a rocket, a Chinese
palace and a flower. Each is cut to its centre square and brought to 256 x 256 and to 512 x 512 pixels.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.codecs.errors import UserError

SIZES = (256, 512)


def photographs() -> dict[str, np.ndarray]:
    """The six, uint8 `[height, width, 3]`, as their packages hold them.

    Raises:
        UserError: A package that holds them is missing.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError(f"package {error.name} is missing: pip install 'media-token-zoo[eval]'") from None
    china, flower = load_sample_images().images
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {name: getattr(data, name)() for name in names} | {"china": china, "flower": flower}


def centre_square(picture: np.ndarray, side: int) -> Image.Image:
    """The largest square around the centre at `side` x `side` pixels."""
    height, width = picture.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = Image.fromarray(picture[top : top + least, left : left + least])
    return square.resize((side, side), Image.Resampling.LANCZOS)


def write(out: Path) -> list[Path]:
    """Write `OUT/SIDE/NAME.png`; their paths."""
    written = []
    for side in SIZES:
        (out / str(side)).mkdir(parents=True, exist_ok=True)
        for name, picture in photographs().items():
            written.append(out / str(side) / f"{name}.png")
            centre_square(picture, side).save(written[-1])
    return written


def main() -> None:
    """Write the six test photographs."""
    parser = ArgumentParser(prog="python -m zoo.photographs", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/photographs"), help="folder to write to")
    written = write(parser.parse_args().out)
    print(f"{len(written)} pictures below {written[0].parents[1]}")


if __name__ == "__main__":
    main()
