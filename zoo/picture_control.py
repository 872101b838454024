"""The control of a picture codec that decodes by a transform and a network: the same codec without the network.

    python -m zoo.picture_control variable.photos -o runs/control
    zoo evaluate runs/control data/photographs/256 ...

What training brought is the distance between the two.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import torch

from zoo import checkpoint, registry
from zoo.codecs.errors import UserError
from zoo.codecs.image.variable import VariableCodec


def write_control(model: str | Path, out: str | Path) -> None:
    """Save a `VariableCodec` as it would be if its network added nothing to the transform; the codes stay the same.

    Raises:
        UserError: No such model, or one of another architecture.
    """
    codec = registry.load(model)
    if not isinstance(codec, VariableCodec):
        raise UserError(f"{model}: is no VariableCodec; only its network can be left out")
    with torch.no_grad():
        codec.repair.leave.weight.zero_()
        codec.repair.leave.bias.zero_()
    checkpoint.save(codec, out)


def main() -> None:
    """Write the control of a picture codec: the same codec without its network."""
    parser = ArgumentParser(prog="python -m zoo.picture_control", description=main.__doc__)
    parser.add_argument("model", help="bundled name or folder of a codec like variable.photos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    chosen = parser.parse_args()
    write_control(chosen.model, chosen.output)
    print(f"{chosen.output}: {chosen.model} without its network")


if __name__ == "__main__":
    main()
