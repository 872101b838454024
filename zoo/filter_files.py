"""Files that hold the filter of a masked decoder; see `zoo.decoders.sampling.choosers.Learned`."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zoo.codecs.errors import UserError
from zoo.decoders.sampling.choosers import Filter

FORMAT = "zoo.filter.1"


def write_filter(path: Path, network: Filter) -> None:
    """As `read_filter` reads it."""
    save_file(network.state_dict(), path, {"format": FORMAT})


def read_filter(path: Path) -> Filter:
    """
    Raises:
        UserError: There is no such file, or it holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise UserError(f"{path}: is no filter; make one by `python -m zoo.filter_training`")
            weights = {name: file.get_tensor(name) for name in file.keys()}
        width, _, window = weights["around.weight"].shape
        network = Filter(window // 2, width)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as a filter ({error}); give the file of one: learned:FILE") from None
    return network.eval().requires_grad_(False)
