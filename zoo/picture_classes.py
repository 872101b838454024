"""Whether generated pictures show what was asked for, look real, and are no copies: a small classifier judges.

    python -m zoo.picture_classes train --data data/shapes --out runs/shape-judge
    python -m zoo.picture_classes judge --classifier runs/shape-judge --pictures generated --json judged.json

Pictures lie in a folder for each class. The judge gives the share that is of its class, the Fréchet distance (Heusel et
al. 2017) between classifier features of generated and of real test pictures, and how near generated pictures are to
those of training. The same numbers of a codec's reconstructions stand beside them, as no decoder of its codes can
expect better ones. The classifier learns from reconstructions, too, lest it take what a codec loses for a fault.

Distances compare only with others by the same classifier and of about as many pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.codecs.files import check_readable, printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import read_image
from zoo.configs import read_json
from zoo.recipes.data.files import below
from zoo.recipes.data.picture_folder import find_pictures
from zoo.scoring import conditions, digest, write_json

WEIGHTS, FACTS = "classifier.safetensors", "classifier.json"
WIDTHS = (24, 48, 96, 96)
BATCH = 64
NEAR_SIDE = 32  # pixels a side at which pictures are compared with each other


@dataclass(frozen=True)
class Labelled:
    """Pictures and the number of the class of each."""

    pictures: UInt8[Tensor, "picture 3 side side"]
    labels: Int[Tensor, "picture"]

    def some(self, count: int) -> Labelled:
        """At most so many, evenly from first to last."""
        chosen = torch.linspace(0, len(self.labels) - 1, min(count, len(self.labels))).long()
        return Labelled(self.pictures[chosen], self.labels[chosen])


class Classifier(nn.Module):
    """Four convolutions, the mean over places, and a linear layer: 0.14 million parameters for ten classes.

    Args:
        classes: How many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, kernel, stride in zip((3, *WIDTHS), WIDTHS, (6, 3, 3, 3), (4, 2, 2, 1), strict=False):
            layers += [nn.Conv2d(before, after, kernel, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.classes = nn.Linear(WIDTHS[-1], classes)

    def features(self, pictures: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch feature"]:
        """What the last layer sees."""
        return self.layers(pictures.float() / 127.5 - 1).mean((2, 3))

    def forward(self, pictures: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch class"]:
        """Logits."""
        return self.classes(self.features(pictures))


def train(examples: Labelled, classes: int, epochs: int = 3, seed: int = 0, rate: float = 4e-3) -> Classifier:
    """A classifier of these examples; the same arguments give the same one on the same machine."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(classes).to(memory_format=torch.channels_last)
    steps = -(-len(examples.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(examples.labels), generator=draw)
        for chosen in track(order.split(BATCH), f"epoch {epoch + 1} of {epochs}"):
            loss = cross_entropy(model(examples.pictures[chosen]), examples.labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def save(model: Classifier, facts: dict[str, Any], folder: Path) -> None:
    """Write weights and what is known of them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    write_json(facts | {"sha256": digest((folder / WEIGHTS).read_bytes())}, folder / FACTS)


def load(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """A classifier and the facts beside it.

    Raises:
        UserError: There is none, or its weights are not those that the facts speak of.
    """
    facts = read_json(folder / FACTS)
    check_readable(folder / WEIGHTS)
    if digest((folder / WEIGHTS).read_bytes()) != facts.get("sha256"):
        raise UserError(f"{printable(folder / WEIGHTS)}: is not what {FACTS} beside it describes; train it again")
    model = Classifier(len(facts["classes"]))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval(), facts


def read_labelled(folder: Path, classes: Sequence[str], side: int) -> Labelled:
    """Every picture in the folders of the classes below a folder.

    Raises:
        UserError: None there, one in no such folder, of another size, or one that cannot be read.
    """
    found = below(folder, find_pictures(folder))
    unknown = sorted(set(found.folders) - set(classes))
    if unknown:
        raise UserError(
            f"{printable(folder)}: holds pictures in {unknown[0]!r}, but the classes are {', '.join(classes)};"
            " put the pictures of each class into a folder of its name"
        )
    pictures = torch.empty(len(found.paths), 3, side, side, dtype=torch.uint8)
    for place, path in zip(pictures, track(found.paths, f"read {folder.name}"), strict=True):
        picture = torch.from_numpy(read_image(path))
        if picture.shape != place.shape:
            height, width = picture.shape[1:]
            raise UserError(
                f"{printable(path)}: has {width} x {height} pixels where {side} x {side} are due; generate or"
                " scale all pictures to that size"
            )
        place.copy_((picture * 255).round())
    return Labelled(pictures, torch.tensor([list(classes).index(name) for name in found.folders]))


@torch.no_grad()
def reconstructions(codec: ImageCodec, codebooks: int, of: Labelled) -> Labelled:
    """What the codec makes of pictures."""
    made = [
        codec.decode(codec.encode(part.float() / 255, codebooks)).clamp(0, 1) * 255
        for part in track(of.pictures.split(BATCH), "reconstruct")
    ]
    return Labelled(torch.cat(made).round().to(torch.uint8), of.labels)


@torch.no_grad()
def look_at(model: Classifier, seen: Labelled) -> tuple[Float[Tensor, "picture feature"], Int[Tensor, "picture"]]:
    """Features of pictures, and the class that each is taken for."""
    features = torch.cat([model.features(part) for part in seen.pictures.split(BATCH)])
    return features, model.classes(features).argmax(1)


def accuracy(model: Classifier, seen: Labelled) -> float:
    """Share of pictures that are taken for what they are."""
    return (look_at(model, seen)[1] == seen.labels).double().mean().item()


def frechet_distance(first: Float[Tensor, "row feature"], second: Float[Tensor, "row feature"]) -> float:
    """Fréchet distance of the normal distributions that have the means and covariances of two sets of features.

    Raises:
        ValueError: A set of fewer than two.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"sets of {len(first)} and {len(second)} features have no covariances; give 2 or more in each")
    first, second = first.double(), second.double()
    one, other = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # Eigenvalues of one @ other are those of the symmetric root @ other @ root, which are found without trouble.
    mixed = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    apart = (first.mean(0) - second.mean(0)).square().sum()
    return float((apart + one.trace() + other.trace() - 2 * mixed).clamp_min(0))


def nearest(
    pictures: UInt8[Tensor, "picture 3 side side"], among: UInt8[Tensor, "other 3 side side"]
) -> Float[Tensor, "picture"]:
    """Root mean square difference, 0 to 1, of each picture from the nearest of the others, both made small.

    Made small, as it is a picture's composition that would be copied; noise of the codec must not hide it.
    """
    cell = max(1, pictures.shape[-1] // NEAR_SIDE)
    small, others = (
        torch.cat([avg_pool2d(part.float() / 255, cell).flatten(1) for part in full.split(512)])
        for full in (pictures, among)
    )
    distances = [torch.cdist(part, others).amin(1) for part in small.split(256)]
    return torch.cat(distances) / small.shape[1] ** 0.5


def judge(
    model: Classifier,
    classes: Sequence[str],
    generated: Labelled,
    reference: Labelled,
    training: Labelled,
    codec: ImageCodec,
    codebooks: int,
) -> dict[str, Any]:
    """All numbers, of generated pictures and of what a perfect decoder could reach.

    Returns:
        For each of `generated`, `reference reconstructed` and `training reconstructed` (as many as were generated):
        pictures, accuracy, Fréchet distance from the reference, and for the first two the median distance to the
        nearest training picture, and the share that is nearer to one than 99 % of the reconstructed reference is:
        about .01 for a decoder that draws its own pictures, and near 1 for one that repeats those of training.
    """
    real = look_at(model, reference)[0]
    sets = {
        "generated": generated,
        "reference reconstructed": reconstructions(codec, codebooks, reference),
        "training reconstructed": reconstructions(codec, codebooks, training.some(len(generated.labels))),
    }
    found: dict[str, Any] = {}
    for name, some in sets.items():
        features, taken = look_at(model, some)
        right = (taken == some.labels).double()
        found[name] = {
            "pictures": len(right),
            "accuracy": round(right.mean().item(), 4),
            "accuracy of classes": {
                label: round(right[some.labels == number].mean().item(), 4)
                for number, label in enumerate(classes)
                if (some.labels == number).any()
            },
            "frechet": round(frechet_distance(features, real), 4),
        }
    near = {name: nearest(sets[name].pictures, training.pictures) for name in ("generated", "reference reconstructed")}
    limit = near["reference reconstructed"].quantile(0.01)
    for name, distances in near.items():
        found[name]["nearest training picture"] = {
            "median": round(distances.median().item(), 4),
            "least": round(distances.min().item(), 4),
            "nearer than 99 % of the reference": round((distances < limit).double().mean().item(), 4),
        }
    return found


def train_command(options: argparse.Namespace) -> None:
    """Train on `DATA/train`, measure on `DATA/test`, write the classifier."""
    codec = registry.load_codec(options.codec)
    folder = options.data / "train"
    found = below(folder, find_pictures(folder))
    classes, side = sorted(set(found.folders)), read_image(found.paths[0]).shape[1]
    real, test = (read_labelled(options.data / split, classes, side) for split in ("train", "test"))
    blurred = reconstructions(codec, options.codebooks, real.some(options.reconstructed))
    together = Labelled(torch.cat([real.pictures, blurred.pictures]), torch.cat([real.labels, blurred.labels]))
    model = train(together, len(classes), options.epochs, options.seed)
    facts = {
        "classes": classes,
        "side": side,
        "codec": options.codec,
        "codebooks": options.codebooks,
        "seed": options.seed,
        "accuracy": {
            "test": accuracy(model, test),
            "test reconstructed": accuracy(model, reconstructions(codec, options.codebooks, test)),
        },
        "conditions": conditions(1, "cpu", ()),
    }
    save(model, facts, options.out)
    print(f"{options.out}: {facts['accuracy']}")


def judge_command(options: argparse.Namespace) -> None:
    """Judge a folder of generated pictures."""
    model, facts = load(options.classifier)
    generated, reference, training = (
        read_labelled(path, facts["classes"], facts["side"])
        for path in (options.pictures, options.reference, options.training)
    )
    codec: Any = registry.load_codec(facts["codec"])
    found = judge(model, facts["classes"], generated, reference, training, codec, facts["codebooks"])
    write_json(found | {"classifier": facts["sha256"], "conditions": conditions(1, "cpu", ())}, options.json)
    for name, numbers in found.items():
        print(f"{name:>24}: accuracy {numbers['accuracy']:.3f}, Fréchet distance {numbers['frechet']:.3f}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser("python -m zoo.picture_classes", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("train", help="train the classifier")
    make.add_argument("--data", type=Path, default=Path("data/shapes"), help="folder with train/CLASS and test/CLASS")
    make.add_argument("--out", type=Path, required=True, help="folder to write the classifier to")
    make.add_argument("--codec", default="variable.photos", help="whose reconstructions it must know")
    make.add_argument("--codebooks", type=int, default=4, help="of these reconstructions")
    make.add_argument("--reconstructed", type=int, default=2000, help="training pictures that count twice, thus")
    make.add_argument("--epochs", type=int, default=3, help="passes over all pictures")
    make.add_argument("--seed", type=int, default=0, help="of the first weights and the order of pictures")
    make.set_defaults(run=train_command)
    ask = commands.add_parser("judge", help="judge generated pictures")
    ask.add_argument("--classifier", type=Path, required=True, help="folder that `train` wrote")
    ask.add_argument("--pictures", type=Path, required=True, help="generated pictures, a folder for each class")
    ask.add_argument("--reference", type=Path, default=Path("data/shapes/test"), help="real ones, not learnt from")
    ask.add_argument("--training", type=Path, default=Path("data/shapes/train"), help="what the decoder learnt from")
    ask.add_argument("--json", type=Path, required=True, help="file to write all numbers to")
    ask.set_defaults(run=judge_command)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
