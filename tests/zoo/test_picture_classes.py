"""The judge of generated pictures learns classes, and tells right from wrong, alike from unlike, new from copied."""

import json
from pathlib import Path

import pytest
import torch
from small_image_codecs import tiny
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from zoo.checkpoint import save as save_codec
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import write_image
from zoo.picture_classes import Labelled, accuracy, frechet_distance, judge, load, main, nearest, read_labelled, train

SIDE, CLASSES = 32, ["dark", "light"]


def examples(count: int, seed: int) -> Labelled:
    """Noisy pictures, dark ones first."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) * 2 // count
    levels = 0.3 + 0.4 * labels + 0.1 * torch.rand(count, generator=draw)
    pictures = levels[:, None, None, None] + 0.2 * torch.rand(count, 3, SIDE, SIDE, generator=draw) - 0.1
    return Labelled((pictures * 255).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def classifier():
    return train(examples(192, 0), 2, epochs=3)


def write(folder: Path, some: Labelled) -> None:
    for number, (picture, label) in enumerate(zip(some.pictures, some.labels.tolist(), strict=True)):
        path = folder / CLASSES[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture.numpy() / 255)


def test_training_is_repeatable_and_leaves_the_global_generator_alone(classifier):
    state = torch.get_rng_state()
    again = train(examples(192, 0), 2, epochs=3)
    assert torch.equal(state, torch.get_rng_state())
    for value, other in zip(classifier.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other)


def test_pictures_of_the_wrong_class_count_as_wrong(classifier):
    fresh = examples(40, 1)
    assert accuracy(classifier, fresh) == 1
    assert accuracy(classifier, Labelled(fresh.pictures, 1 - fresh.labels)) == 0


def test_the_distance_is_that_of_normal_distributions():
    class Means(nn.Module):
        num_features = 3

        def forward(self, pictures):
            return pictures.double().mean((2, 3))

    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randint(low, 256, (50, 3, 4, 4), generator=draw, dtype=torch.uint8) for low in (0, 60))
    published = FrechetInceptionDistance(feature=Means(), input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    published.update(first, real=True)
    published.update(second, real=False)
    ours = frechet_distance(Means()(first), Means()(second))
    assert ours == pytest.approx(float(published.compute()), rel=1e-4)
    assert frechet_distance(Means()(first), Means()(first)) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_fewer_features_than_dimensions_is_finite():
    assert 0 < frechet_distance(torch.randn(5, 40), torch.randn(4, 40)) < 1000
    with pytest.raises(ValueError, match="2 or more"):
        frechet_distance(torch.randn(1, 4), torch.randn(5, 4))


def test_a_copy_is_at_distance_0_and_a_shift_of_all_pixels_at_the_shift():
    some = torch.full((3, 3, 64, 64), 100, dtype=torch.uint8)
    some[1:] = 200
    assert nearest(some[:1], some).tolist() == pytest.approx([0], abs=1e-3)
    assert nearest(some[:1], some[1:]).tolist() == pytest.approx([100 / 255], abs=1e-3)


def test_copies_and_pictures_of_the_wrong_class_are_found(classifier):
    codec = tiny("variable", "plain").eval()
    training, reference, fresh = examples(60, 2), examples(40, 3), examples(40, 4)
    wrong = Labelled(fresh.pictures, 1 - fresh.labels)
    fine, copied, mistaken = (
        judge(classifier, CLASSES, generated, reference, training, codec, 2)
        for generated in (fresh, training.some(40), wrong)
    )
    assert fine["generated"]["accuracy"] == 1 and mistaken["generated"]["accuracy of classes"]["dark"] == 0
    assert copied["generated"]["nearest training picture"]["nearer than 99 % of the reference"] == 1
    assert fine["training reconstructed"]["pictures"] == 40
    black = Labelled(torch.zeros_like(fresh.pictures), fresh.labels)
    ruined = judge(classifier, CLASSES, black, reference, training, codec, 2)
    assert ruined["generated"]["frechet"] > 2 * fine["generated"]["frechet"]


def test_what_the_codec_loses_shows_beside_what_was_generated(classifier, monkeypatch):
    codec = tiny("variable", "plain").eval()
    monkeypatch.setattr(codec, "decode", lambda tokens: torch.full((len(tokens.codes), 3, SIDE, SIDE), 0.9))
    training, reference = examples(60, 2), examples(40, 3)
    found = judge(classifier, CLASSES, examples(20, 4), reference, training, codec, 2)
    assert [found[name]["pictures"] for name in found] == [20, 40, 20]
    assert [found[name]["accuracy"] for name in found] == [1, 0.5, 0.5]
    assert found["reference reconstructed"]["frechet"] > found["generated"]["frechet"]


def test_pictures_out_of_place_are_refused(tmp_path):
    write(tmp_path, examples(4, 0))
    assert read_labelled(tmp_path, CLASSES, SIDE).labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match="'dark', but the classes are cold, light"):
        read_labelled(tmp_path, ["cold", "light"], SIDE)
    with pytest.raises(UserError, match="32 x 32 pixels where 64 x 64 are due"):
        read_labelled(tmp_path, CLASSES, 64)


def test_the_commands_train_and_judge(tmp_path, capsys):
    save_codec(tiny("variable", "plain"), tmp_path / "codec")
    for split, seed in (("train", 0), ("test", 1), ("made", 2)):
        write(tmp_path / "data" / split, examples(64 if split == "train" else 16, seed))
    data, out = tmp_path / "data", tmp_path / "judge"
    common = ["--codec", str(tmp_path / "codec"), "--codebooks", "2", "--reconstructed", "16", "--epochs", "2"]
    assert main(["train", "--data", str(data), "--out", str(out), *common]) == 0
    facts = json.loads((out / "classifier.json").read_text())
    assert facts["classes"] == CLASSES and facts["side"] == SIDE and set(facts["accuracy"]) > {"test"}
    arguments = ["judge", "--classifier", str(out), "--pictures", str(data / "made")]
    arguments += [
        "--reference",
        str(data / "test"),
        "--training",
        str(data / "train"),
        "--json",
        str(tmp_path / "j.json"),
    ]
    assert main(arguments) == 0
    assert "Fréchet distance" in capsys.readouterr().out
    found = json.loads((tmp_path / "j.json").read_text())
    assert found["generated"]["pictures"] == 16 and found["classifier"] == facts["sha256"]
    (out / "classifier.safetensors").write_bytes(b"other")
    assert main(arguments) == 2
    assert "train it again" in capsys.readouterr().err
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "nowhere")
