"""How fast our codecs are beside other implementations: same weights, clip and threads, interleaved in one process.

python -m zoo.bench codecs --json out.json
python -m zoo.bench quantizers --json out.json
python -m zoo.bench entropy MODEL DATA --codebooks 2 8 --json out.json
python -m zoo.bench decoders --json out.json
python -m zoo.bench sampling --json out.json
"""

from __future__ import annotations

import json
import os
import statistics
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zoo.checkpoints.keymaps import encodec
from zoo.codecs.audio.seanet import SEANetCodec, SEANetConfig, shaping
from zoo.codecs.base import Tokens
from zoo.codecs.errors import UserError
from zoo.scoring import conditions, write_json

LSTM_GATES = 4
PROBE_BYTES = 4 << 20  # about what one recurrent weight of EnCodec takes


def bench_codecs(
    output: str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    as_json: bool = False,
    *,
    config: SEANetConfig | None = None,
    seconds: float = 10.0,
    codebooks: int = 8,
    repeats: int = 7,
    settings: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (1, 4)),
) -> dict[str, Any]:
    """Measure encoding and decoding of our SEANet codec beside `transformers.EncodecModel`; print a table or JSON.

    Args:
        output: Write the result here too, as JSON.
        device: Where both compute.
        seed: Of weights and clip.
        config: Architecture (default: EnCodec 24 kHz).
        seconds, codebooks: Length of the clip and rate.
        repeats: Runs of each; the medians are compared.
        settings: Threads and clips in a batch to measure with.

    Raises:
        UserError: transformers is not installed.
    """
    theirs, ours = same_weights(config or SEANetConfig.encodec_24khz(), seed)
    theirs, ours = theirs.to(device), ours.to(device)
    clip = _clip(ours, seconds, seed, max(batch for _, batch in settings)).to(device)
    contests = [Contest(theirs, ours, clip[:batch], codebooks, threads) for threads, batch in settings]
    before = torch.get_num_threads()
    try:
        rows = [contest.measure(repeats) for contest in contests]
    finally:
        torch.set_num_threads(before)
    facts = conditions(1, device)
    result = {
        **head(facts),
        "versions": facts["versions"] | {"transformers": version("transformers")},
        "what": "wall and CPU seconds of one process, medians of interleaved runs; CPU seconds leave out the time in "
        "which other processes had the processor. ratio: transformers / ours",
        "seconds_of_audio": seconds,
        "codebooks": codebooks,
        "kbps": ours.info.kbps(codebooks),
        "seed": seed,
        "repeats": repeats,
        "agreement": contests[0].agreement(),
        "rows": rows,
        "floor_of_one_clip_and_thread": _floor(ours, contests[0].frames) if device == "cpu" else None,
    }
    return deliver(result, [_table(rows)], output, as_json)


def deliver(
    result: dict[str, Any], tables: list[Table], output: str | Path | None, as_json: bool, width: int | None = None
) -> dict[str, Any]:
    """Write a benchmark's result to a file if there is one, print it as JSON or as tables, and return it."""
    if output is not None:
        write_json(result, output)
    if as_json:
        print(json.dumps(result, indent=2))
        return result
    for table in tables:
        Console(width=width).print(table)
    return result


def head(facts: dict[str, Any]) -> dict[str, Any]:
    """What each benchmark's result begins with, of `scoring.conditions`."""
    return {name: facts[name] for name in ("command", "hardware", "versions", "date")}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Times = Mapping[Hashable, tuple[float, float]]
"""Wall and CPU seconds of each way in one round, in which all take turns."""


def speed(rounds: Sequence[Times], way: Hashable, reference: Hashable, tokens: int) -> dict[str, Any]:
    """Median seconds of a way, the tokens that it gives in one of them, and how it compares with another."""
    found: dict[str, Any] = {"ratio": times_as_fast(rounds, way, reference)}
    for index, kind in enumerate(("wall", "cpu")):
        found[kind] = statistics.median(times[way][index] for times in rounds)
        found[f"tokens_per_{kind}_second"] = tokens / found[kind]
    return found


def times_as_fast(rounds: Sequence[Times], way: Hashable, reference: Hashable) -> dict[str, list[float]]:
    """Seconds of the reference / of this way, of the same round: median, least and largest; by wall and CPU clock."""
    found = {}
    for index, kind in enumerate(("wall", "cpu")):
        ratios = sorted(times[reference][index] / times[way][index] for times in rounds)
        found[kind] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return found


def same_weights(config: SEANetConfig, seed: int) -> tuple[nn.Module, SEANetCodec]:
    """A `transformers.EncodecModel` of random weights, and our fused codec with the very same."""
    try:
        from transformers import EncodecConfig, EncodecModel
    except ImportError:
        raise UserError("transformers is not installed; pip install 'media-token-zoo[hf]'") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours = SEANetCodec(config).fuse().eval()
        kbps = ours.info.kbps()
        theirs = EncodecModel(
            EncodecConfig(
                sampling_rate=config.sample_rate,
                num_filters=config.filters,
                hidden_size=config.dim,
                upsampling_ratios=list(config.ratios),
                codebook_size=config.codebook_size,
                target_bandwidths=[ours.info.kbps(n) for n in range(1, config.codebooks)] + [kbps],
            )
        ).eval()
        enliven(theirs)
    keymap = encodec(config.ratios, config.residual_layers, config.lstm_layers > 0, config.norm == "weight")
    ours.load_state_dict(keymap.read(theirs.state_dict()))
    return theirs, ours


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Make random weights let the signal through, and give the codebooks the size of the latents.

    Fresh weights damp the signal to a constant and fresh codebooks are zeros: equal codes would then say nothing.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("original0", "norm.weight")):
            parameter.mul_(1.7)
    latents = model.encoder(torch.randn(1, model.config.audio_channels, 9600) * 0.3)
    for level, layer in enumerate(model.quantizer.layers):
        book = layer.codebook
        book.embed.copy_(torch.randn(book.embed.shape) * latents.std() * 0.9**level)
        if level == 0:
            book.embed += latents.mean(dim=(0, 2))
        book.cluster_size.fill_(2)
        book.embed_avg.copy_(book.embed * 2)


@dataclass
class Contest:
    """Both implementations and what they are to code."""

    theirs: nn.Module
    ours: SEANetCodec
    clip: Tensor
    codebooks: int
    threads: int
    codes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.codes = self.ours.encode(self.clip, self.codebooks).codes

    @property
    def frames(self) -> int:
        return self.codes.shape[-1]

    @torch.no_grad()
    def tasks(self) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
        """What is timed: theirs and ours."""
        kbps = self.ours.info.kbps(self.codebooks)
        tokens = Tokens(self.codes, torch.full((len(self.clip),), self.clip.shape[-1]))
        return {
            "encode": (
                lambda: self.theirs.encode(self.clip, bandwidth=kbps).audio_codes[0],
                lambda: self.ours.encode(self.clip, self.codebooks).codes,
            ),
            "decode": (
                lambda: self.theirs.decode(self.codes[None], [None]).audio_values,
                lambda: self.ours.decode(tokens),
            ),
        }

    @torch.no_grad()
    def agreement(self) -> dict[str, Any]:
        """Do both compute the same?"""
        tasks = self.tasks()
        codes, samples = ([run() for run in tasks[name]] for name in ("encode", "decode"))
        length = samples[1].shape[-1]
        return {
            "codes_equal": torch.equal(*codes),
            "codes_used": int(self.codes.unique().numel()),
            "largest_difference": float((samples[0][..., :length] - samples[1]).abs().max()),
            "deviation_of_samples": float(samples[1].std()),
        }

    @torch.no_grad()
    def measure(self, repeats: int) -> dict[str, Any]:
        """Times of both, their ratios and where the time goes."""
        torch.set_num_threads(self.threads)
        row: dict[str, Any] = {
            "threads": self.threads,
            "batch": len(self.clip),
            "load_average": os.getloadavg()[0],
        }
        for name, runs in self.tasks().items():
            row[name] = compare(runs, ("transformers", "ours"), repeats, self.clip.device)
            row[name]["ours"]["realtime_factor"] = self._seconds / row[name]["ours"]["wall"]
        row["layers"] = self._profile(repeats)
        return row

    @property
    def _seconds(self) -> float:
        return len(self.clip) * self.clip.shape[-1] / self.ours.config.sample_rate

    def _profile(self, repeats: int) -> list[dict[str, Any]]:
        """CPU seconds of each layer; both models have the same layers in the same order."""
        times = [_layer_times(model, [task[index] for task in self.tasks().values()], repeats)
                 for index, model in enumerate((self.theirs, self.ours))]  # fmt: skip
        names = {
            f"{half}.layers.{index}": type(layer).__name__
            for half in ("encoder", "decoder")
            for index, layer in enumerate(self.ours.get_submodule(half).layers)
        }
        return [
            {"layer": name, "kind": kind, "transformers": times[0][name], "ours": times[1][name]}
            for name, kind in names.items()
        ]


def compare(
    runs: tuple[Callable[[], Any], Callable[[], Any]], names: tuple[str, str], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of two ways to do the same, which take turns, and their ratio."""
    for run in runs:  # warm up
        run()
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repeats):
        for run, found in zip(runs, times, strict=True):
            found.append(timed(run, device))
    medians = [
        {kind: statistics.median(pair[index] for pair in found) for index, kind in enumerate(("wall", "cpu"))}
        for found in times
    ]
    ratio = {kind: medians[0][kind] / medians[1][kind] for kind in ("wall", "cpu")}
    return dict(zip(names, medians, strict=True)) | {"ratio": ratio}


def _layer_times(model: nn.Module, runs: list[Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU seconds in each layer of encoder and decoder in one go at all `runs`, medians."""
    taken: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}
    hooks = []
    for half in ("encoder", "decoder"):
        for index, layer in enumerate(model.get_submodule(half).layers):
            name = f"{half}.layers.{index}"

            def start(*_: Any, name: str = name) -> None:
                started[name] = time.process_time()

            def stop(*_: Any, name: str = name) -> None:
                taken[name] += time.process_time() - started[name]

            hooks += [layer.register_forward_pre_hook(start), layer.register_forward_hook(stop)]
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        taken.clear()
        for run in runs:
            run()
        for name, value in taken.items():
            found[name].append(value)
    for hook in hooks:
        hook.remove()
    return {name: statistics.median(values) for name, values in found.items()}


def timed(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _clip(codec: SEANetCodec, seconds: float, seed: int, batch: int) -> Tensor:
    """Noise: what is in a clip does not change how long it takes."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(batch, codec.config.channels, round(seconds * codec.config.sample_rate), generator=source) * 0.3


def _floor(codec: SEANetCodec, frames: int) -> dict[str, Any]:
    """Least time of the encoder in float32: its matrix products at the processor's best, and its LSTM's reading.

    Each frame needs the whole recurrent matrix and waits for the frame before, so no layout of one clip avoids
    reading it once a frame. Activations, quantizer and copies come on top; the decoder does as much.
    """
    config = codec.config
    width = config.filters << len(config.ratios)
    recurrent = LSTM_GATES * width * width * config.lstm_layers  # as many weights act on the inputs
    products, steps = recurrent, config.hop
    for layer in shaping(codec.encoder.layers, inner=True):
        steps //= layer.stride
        products += layer.weight.numel() * steps
    flops, size = 2 * products * frames, 4 * recurrent * frames
    square, memory = torch.ones(1024, 1024), torch.ones(PROBE_BYTES // 4)
    speed = 2 * 1024**3 / _least(lambda: square @ square)
    rate = PROBE_BYTES / _least(lambda: memory.sum())
    return {
        "gigaflop_in_products": flops / 1e9,
        "gigaflop_per_second": speed / 1e9,
        "gigabytes_of_recurrent_weights_read": size / 1e9,
        "gigabytes_per_second": rate / 1e9,
        "seconds": flops / speed + size / rate,
    }


def _least(run: Callable[[], Any], rounds: int = 15, calls: int = 10) -> float:
    """CPU seconds of a call in the median round, with one thread."""
    with one_thread():
        found = [timed(lambda: [run() for _ in range(calls)], torch.device("cpu"))[1] for _ in range(rounds)]
    return statistics.median(found) / calls


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("threads", "clips", "task", "theirs, CPU s", "ours, CPU s", "ratio, CPU", "ratio, wall")
    for row in rows:
        for task in ("encode", "decode"):
            theirs, ours, ratio = row[task]["transformers"], row[task]["ours"], row[task]["ratio"]
            times = [f"{side['cpu']:.3f}" for side in (theirs, ours)]
            ratios = [f"{ratio[kind]:.2f}" for kind in ("cpu", "wall")]
            table.add_row(str(row["threads"]), str(row["batch"]), task, *times, *ratios)
    return table


def _main() -> None:
    parser = ArgumentParser("python -m zoo.bench", description=__doc__)
    parser.add_argument("what", choices=["codecs", "quantizers", "entropy", "decoders", "sampling"])
    parser.add_argument("media", nargs="*", metavar="MODEL DATA", help="what entropy coding or decoding is measured of")
    parser.add_argument("--codebooks", type=int, nargs="+", help="how many codebooks are entropy coded")
    parser.add_argument("--clips", type=int, help="of so many files (default: all)")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    if chosen.what == "codecs":
        bench_codecs(chosen.json, chosen.device, chosen.seed, repeats=chosen.repeats)
    elif chosen.what == "entropy":
        from zoo.bench_entropy import bench_entropy

        if len(chosen.media) != 2:
            parser.error("name a model and a folder of media or token files")
        model, data = chosen.media
        bench_entropy(model, data, chosen.json, chosen.device, chosen.codebooks, chosen.clips)
    elif chosen.what == "decoders":
        from zoo.bench_decoders import bench_decoders

        bench_decoders(chosen.media[0] if chosen.media else None, chosen.json, chosen.seed, repeats=chosen.repeats)
    elif chosen.what == "sampling":
        from zoo.bench_sampling import bench_sampling

        bench_sampling(chosen.json, chosen.seed)
    else:
        from zoo.bench_quantizers import bench_quantizers

        bench_quantizers(chosen.json, chosen.device, chosen.seed, repeats=chosen.repeats)


if __name__ == "__main__":
    _main()
