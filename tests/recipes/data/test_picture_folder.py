"""What corpora of pictures promise: the same crops for the same numbers, whatever happens around them."""

import io
import logging
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.codecs.errors import UserError
from zoo.recipes.data.picture_crops import PictureCropConfig, cut, detail_of
from zoo.recipes.data.picture_folder import PictureFolder
from zoo.recipes.data.picture_generated import GeneratedPictures
from zoo.recipes.data.picture_shards import PictureShards

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
COUNTS = {"red": 6, "green": 3, "blue": 1}
STILL = {"zoom": (1.0, 1.0), "flip": 0.0}


def picture(colour: str, number: int = 0, width: int = 60, height: int = 40) -> Image.Image:
    """One colour and a little noise, so that a crop tells where it comes from."""
    noise = np.random.default_rng(number).integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).astype(np.uint8))


@pytest.fixture
def tree(tmp_path):
    """Ten pictures in the layout of ImageNet: a folder for each class."""
    for colour, count in COUNTS.items():
        (tmp_path / "tree" / colour).mkdir(parents=True)
        for number in range(count):
            picture(colour, number).save(tmp_path / "tree" / colour / f"{number}.png")
    return tmp_path / "tree"


def folder(root, crops=None, **options) -> PictureFolder:
    crops = PictureCropConfig(**{"size": 16, **(crops or {})})
    options = {"batch_size": 4, "epoch_batches": 5, "valid_dir": str(root), "valid_size": None} | options
    module = PictureFolder(str(root), crops=crops, **options)
    module.setup("fit")
    return module


def drawn(module) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in module.train_dataloader()])


def colours(module, count=300) -> Counter:
    crops = (module.train_source().crop(k) for k in range(count))
    return Counter(list(COLOURS)[int(crop.mean((1, 2)).argmax())] for crop in crops)


def test_batches_are_float32_pictures_of_the_size_asked_for_in_0_to_1(tree):
    batches = list(folder(tree, {"zoom": (0.4, 3.0)}).train_dataloader())
    assert len(batches) == 5
    for batch in batches:
        assert (batch["image"].shape, batch["image"].dtype) == ((4, 3, 16, 16), torch.float32)
        assert 0 <= batch["image"].min() and 0.5 < batch["image"].max() <= 1


def test_the_same_seed_draws_the_same_crops_and_another_seed_others(tree):
    first = drawn(folder(tree))
    assert torch.equal(first, drawn(folder(tree)))
    assert not torch.equal(first, drawn(folder(tree, {"seed": 1})))
    assert len({crop.numpy().tobytes() for crop in first}) == len(first)


@pytest.mark.parametrize("options", [{"workers": 2}, {"cache": "memory"}, {"cache": "memory", "workers": 2}])
def test_crops_depend_neither_on_workers_nor_on_the_cache(tree, options):
    assert torch.equal(drawn(folder(tree)), drawn(folder(tree, **options)))


def test_a_stopped_stream_goes_on_with_the_next_crop(tree):
    module, other = folder(tree), folder(tree)
    batches = iter(module.train_dataloader())
    next(batches), next(batches)
    other.load_state_dict(module.state_dict())
    assert module.state_dict() == {"consumed": 8}
    assert torch.equal(next(iter(other.train_dataloader()))["image"], next(batches)["image"])


def test_every_picture_is_equally_likely_without_shares_and_folders_get_their_shares(tree):
    counts = colours(folder(tree))
    assert counts["red"] == pytest.approx(180, abs=34)  # four standard deviations
    assert counts["blue"] == pytest.approx(30, abs=21)
    counts = colours(folder(tree, {"shares": {"bl*": 0.5, "green": 0.0}}))
    assert counts["blue"] == pytest.approx(150, abs=35) and counts["green"] == 0
    with pytest.raises(UserError, match="'blau'.*blue, green, red"):
        folder(tree, {"shares": {"blau": 0.5}})


def test_without_zoom_a_crop_is_a_piece_of_the_picture_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16), (0, 1)).reshape(-1, 3, 16, 16)
    for crop in drawn(folder(tmp_path, STILL)):
        whole = (crop.numpy() * 255).round().astype(np.uint8)
        assert (windows == whole).all((1, 2, 3)).any()


def test_a_zoom_of_a_half_sees_twice_as_much_and_small_pictures_are_enlarged(tmp_path):
    ramp = np.tile(np.arange(60, dtype=np.uint8)[:, None] * 4, (40, 1, 3))  # 4 levels a pixel, left to right
    Image.fromarray(ramp.reshape(40, 60, 3)).save(tmp_path / "0.png")

    def slope(zoom):
        crops = drawn(folder(tmp_path, {"zoom": (zoom, zoom), "flip": 0.0})) * 255
        return float((crops[..., 10] - crops[..., 5]).mean()) / 5

    assert slope(1.0) == pytest.approx(4, abs=0.05)
    assert slope(0.5) == pytest.approx(8, abs=0.1)
    assert slope(0.1) == pytest.approx(4 * 40 / 16, abs=0.2)  # all of the height is the most there is


def test_flips_mirror_the_share_of_crops_asked_for(tmp_path):
    ramp = np.tile(np.arange(60, dtype=np.uint8)[:, None] * 4, (40, 1, 3))
    Image.fromarray(ramp.reshape(40, 60, 3)).save(tmp_path / "0.png")
    crops = drawn(folder(tmp_path, {"flip": 0.25}, epoch_batches=50))
    falling = (crops[..., 0, -1] < crops[..., 0, 0]).all(1).float().mean()
    assert float(falling) == pytest.approx(0.25, abs=0.12)


def test_flat_places_are_drawn_again(tmp_path):
    pixels = np.full((160, 160, 3), 128, np.uint8)
    pixels[:, 80:] = np.random.default_rng(0).integers(0, 256, (160, 80, 3))
    Image.fromarray(pixels).save(tmp_path / "0.png")

    def rich(detail):
        crops = drawn(folder(tmp_path, STILL | {"detail": detail}, epoch_batches=25))
        return float((crops.std((1, 2, 3)) > 0.05).float().mean())

    # A place is flat with probability .45; eight draws leave next to none.
    assert rich(0.0) == pytest.approx(0.55, abs=0.2)
    assert rich(0.05) > 0.95


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = np.zeros((8, 9, 3), np.uint8)
    stripes[:, ::2] = 51
    assert detail_of(stripes) == pytest.approx(0.2 / 2, rel=1e-4)  # .2 across, nothing down


def test_a_cut_of_the_whole_is_the_whole():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(cut(pixels, 16, (0.5, 0.5), 16), pixels)
    assert cut(pixels, 16, (0.5, 0.5), 4).shape == (4, 4, 3)


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_files_are_reported_once_counted_and_skipped(tree, cache, workers, caplog):
    whole = (tree / "red" / "0.png").read_bytes()
    (tree / "blue" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tree / "blue" / "empty.jpg").write_bytes(b"")
    (tree / "blue" / "notes.txt").write_text("no picture, and not counted")
    with caplog.at_level(logging.WARNING):
        module = folder(
            tree, {"shares": {"blue": 0.6}}, cache=cache, workers=workers, epoch_batches=20, valid_pictures=1
        )
        assert drawn(module).shape == (80, 3, 16, 16)
    assert module.train_source().store.skipped == 2
    if workers == 0 or cache == "memory":  # the records of worker processes stay there
        for name in ("blue/broken.png", "blue/empty.jpg"):
            assert sum(f"skipping {name}" in record.message for record in caplog.records) == 1


def test_a_corpus_that_vanishes_altogether_is_an_error(tree):
    module = folder(tree)
    for path in tree.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="pictures in a row could not be read"):
        drawn(module)


def test_a_folder_without_pictures_or_missing_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match="holds no picture file"):
        folder(tmp_path)
    with pytest.raises(UserError, match="no-such-folder: no such folder"):
        folder(tmp_path / "no-such-folder")
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of 1 pictures"):
        folder(tmp_path)


@pytest.mark.parametrize(
    ("crops", "message"), [({"size": 0}, "0 pixels"), ({"zoom": (0, 1)}, "zoom"), ({"shares": {"a": 2.0}}, "shares")]
)
def test_settings_that_make_no_sense_are_the_users_error(crops, message):
    with pytest.raises(UserError, match=message):
        PictureCropConfig(**crops)


def test_without_a_validation_folder_no_picture_is_in_both_sets(tree):
    module = folder(tree, valid_dir=None, valid_percent=40.0)
    train, valid = module.find_pictures()
    assert len(train.names) + len(valid.names) == 10 and valid.names
    assert not set(train.names) & set(valid.names)


def test_validation_takes_pictures_of_each_folder_in_turn_whole_or_squared(tree):
    whole = list(folder(tree, valid_pictures=5).val_dataloader())
    assert [batch["names"][0].split("/")[0] for batch in whole] == ["blue", "green", "red", "green", "red"]
    assert {tuple(batch["image"].shape) for batch in whole} == {(1, 3, 40, 60)}
    square = list(folder(tree, valid_pictures=2, valid_size=32).val_dataloader())
    assert {tuple(batch["image"].shape) for batch in square} == {(1, 3, 32, 32)}


def write_shards(tree, root):
    """The pictures of a tree as two tar files in WebDataset's layout: a picture and its class of one name."""
    root.mkdir()
    files = sorted(tree.rglob("*.png"))
    for shard in (0, 1):
        with tarfile.open(root / f"train-{shard:04}.tar", "w") as tar:
            for number, path in enumerate(files[shard::2]):
                for suffix, data in (("png", path.read_bytes()), ("cls", b"7")):
                    entry = tarfile.TarInfo(f"{shard}{number:04}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return files


def shards(root, **options) -> PictureShards:
    crops = PictureCropConfig(size=16, **STILL)
    module = PictureShards(f"{root}/train-*.tar", crops=crops, batch_size=4, epoch_batches=5, **options)
    module.setup("fit")
    return module


def test_tar_shards_give_the_pictures_that_were_put_in(tree, tmp_path):
    files = write_shards(tree, tmp_path / "shards")
    options = {"valid_shards": f"{tmp_path}/shards/train-0001.tar", "valid_size": None}
    module = shards(tmp_path / "shards", **options)
    train, valid = module.find_pictures()
    assert len(train.names) == 10 and len(valid.names) == 5
    assert train.names[0] == "train-0000/00000.png" and train.folders[-1] == "train-0001"
    wanted = [np.asarray(Image.open(path)) for path in (*files[0::2], *files[1::2])]
    assert all(np.array_equal(train.read(k), pixels) for k, pixels in enumerate(wanted))
    assert drawn(module).shape == (20, 3, 16, 16)
    assert torch.equal(drawn(module), drawn(shards(tmp_path / "shards", workers=2, **options)))


def test_a_damaged_member_is_skipped_and_a_damaged_shard_is_an_error(tree, tmp_path):
    (tree / "red" / "0.png").write_bytes(b"no picture")
    write_shards(tree, tmp_path / "shards")
    module = shards(tmp_path / "shards", valid_percent=30.0)
    assert drawn(module).shape == (20, 3, 16, 16)
    assert module.skipped <= 1
    (tmp_path / "shards" / "train-0002.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match="train-0002.tar"):
        shards(tmp_path / "shards")
    with pytest.raises(UserError, match="no shard"):
        shards(tmp_path / "nowhere")


def test_generated_pictures_are_fixed_varied_and_held_out_ones_are_others():
    module = GeneratedPictures(size=24, batch_size=4, epoch_batches=3, valid_size=40)
    first = drawn(module)
    assert first.shape == (12, 3, 24, 24) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, drawn(GeneratedPictures(size=24, batch_size=4, epoch_batches=3, workers=2)))
    assert first.std((1, 2, 3)).min() > 0.01
    assert [tuple(batch["image"].shape) for batch in module.val_dataloader()] == [(1, 3, 40, 40)] * 2
