"""Token sets as training data: whole items, padded and labelled, in an order that resumes exactly."""

import logging
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from recorder import Recorder

from zoo import registry
from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.recipes.data.token_sets import TokenSets
from zoo.token_set_manifest import FORMAT, SetManifest, write_manifest
from zoo.token_sets import Item, describe_shard, write_shard

SIZES = (16, 8, 8)


def code_of(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Codes that tell which item this is."""
    return np.random.default_rng(number).integers(0, 8, (len(SIZES), *shape))


def write_set(folder, shapes, first=0, codec="toy.speech", weights="ab" * 32, media="audio", shard=7, sizes=SIZES):
    """A set of items `first` ..., of these shapes; speakers in turn, every third without a text."""
    folder.mkdir()
    info = CodecInfo(media, 8000 if media == "audio" else 0, 1, 10, sizes, True, 0, 1)
    manifest = SetManifest(FORMAT, True, codec, weights, info, sizes, {}, len(shapes), "")
    items = [
        Item(
            f"speaker{k % 3}/{k}.wav", code_of(k, shape)[: len(sizes)], tuple(10 * n for n in shape),
            label=f"speaker{k % 3}" if k % 4 else None, text=f"téxt {k}" if k % 3 else None,
        )
        for k, shape in enumerate(shapes, first)
    ]  # fmt: skip
    shards = []
    for number in range(0, len(items), shard):
        write_shard(folder / f"tokens-{number:05}.parquet", items[number : number + shard], [], manifest)
        shards.append(describe_shard(folder / f"tokens-{number:05}.parquet", media)[0])
    labels = tuple(sorted({item.label for item in items} - {None}))
    write_manifest(folder, SetManifest(
        FORMAT, True, codec, weights, info, sizes, {}, len(shapes), "", len(items), labels=labels, shards=tuple(shards)
    ))  # fmt: skip
    return str(folder)


def lengths_of(count, seed=0):
    return [(int(n),) for n in np.random.default_rng(seed).integers(5, 60, count)]


@pytest.fixture
def speech(tmp_path):
    """40 sequences of 5 to 59 frames."""
    return write_set(tmp_path / "speech", lengths_of(40))


def module(sets, **settings):
    data = TokenSets(sets if isinstance(sets, list) else [sets], **{"batch_cells": 200, "valid_percent": 25} | settings)
    data.setup("fit")
    return data


def number_of(codes: torch.Tensor, length: int, most: int = 60) -> int:
    """Which item a row of a batch is."""
    wanted = codes[:, :length].numpy()
    return next(k for k in range(most) if np.array_equal(code_of(k, (length,))[: len(wanted)], wanted))


def rows(batch, *keys: str):
    """Codes and length of each row, and what else the keys name."""
    return zip(*(batch[key] for key in ("codes", "lengths", *keys)), strict=True)


def numbers_of(batches) -> list[int]:
    """Which items are in some batches."""
    return [number_of(*row) for batch in batches for row in rows(batch)]


def round_of(data):
    """All training batches of one round."""
    stream = data.train_stream(0, 1)
    return [stream.batch(k) for k in range(len(data._train.buckets))]


def test_each_item_is_trained_on_or_validated_on_once_with_what_belongs_to_it(speech):
    data = module(speech)
    seen = {}
    for part, batches in (("train", round_of(data)), ("valid", data.val_dataloader())):
        for batch in batches:
            assert batch["codes"].dtype == batch["lengths"].dtype == batch["label"].dtype == torch.int64
            for codes, length, label, text in rows(batch, "label", "text"):
                number = number_of(codes, length)
                assert number not in seen
                seen[number] = part
                assert (codes[:, length:] == -1).all() and (codes[:, :length] >= 0).all()
                assert text == (f"téxt {number}" if number % 3 else "")
                assert label == (data.labels.index(f"speaker{number % 3}") if number % 4 else -1)
    assert set(seen) == set(range(40))
    assert 0 < list(seen.values()).count("valid") < 20
    assert data.labels == ("speaker0", "speaker1", "speaker2") and data.codebook_sizes == SIZES


def test_batches_keep_to_their_budget_and_hold_little_padding(speech, caplog):
    with caplog.at_level(logging.INFO, "zoo.recipes.data.token_sets"):
        data = module(speech)
    cells = used = 0
    for batch in round_of(data):
        assert batch["codes"][:, 0].numel() <= 200
        cells += batch["codes"][:, 0].numel()
        used += int(batch["lengths"].sum())
    assert data.padding == pytest.approx(1 - used / cells) and data.padding < 0.13
    assert f"{100 * data.padding:.1f} % of them padding" in caplog.text


def test_validation_may_have_sets_of_its_own(speech, tmp_path):
    other = write_set(tmp_path / "other", lengths_of(9, 1), first=40)
    data = module(speech, valid_sets=[other])
    valid = numbers_of(data.val_dataloader())
    train = numbers_of(round_of(data))
    assert sorted(valid) == list(range(40, 49)) and sorted(train) == list(range(40))


def test_several_sets_are_one(speech, tmp_path):
    other = write_set(tmp_path / "other", lengths_of(9, 1), first=40)
    data = module([speech, other], valid_sets=[other])
    train = numbers_of(round_of(data))
    assert sorted(train) == list(range(49))


def test_at_most_so_many_items_are_validated_on_some_of_each_label(speech):
    data = module(speech, valid_percent=60, valid_items=8)
    labels = [int(label) for batch in data.val_dataloader() for label in batch["label"]]
    assert len(labels) == 8 and set(labels) == {-1, 0, 1, 2}


def test_fewer_codebooks_are_the_first(speech):
    data = module(speech, codebooks=2)
    assert data.codebook_sizes == SIZES[:2]
    batches = round_of(data)
    assert {batch["codes"].shape[1] for batch in batches} == {2}
    assert len(set(numbers_of(batches))) == len(data._train.items)


def test_texts_may_come_as_bytes(speech):
    for batch in round_of(module(speech, text="bytes")):
        for codes, length, text in rows(batch, "text"):
            number = number_of(codes, length)
            assert bytes(text[text >= 0].tolist()).decode() == (f"téxt {number}" if number % 3 else "")
            assert (text[(text >= 0).sum() :] == -1).all() and text.dtype == torch.int64


def test_the_pace_of_a_label_is_its_frames_for_a_byte_of_text(speech):
    data = module(speech)
    frames, amount = np.zeros(3), np.zeros(3)
    for _, length, label, text in (row for batch in round_of(data) for row in rows(batch, "label", "text")):
        if text and label >= 0:
            frames[label] += length
            amount[label] += len(text.encode())
    assert data.paces == pytest.approx(frames / np.maximum(amount, 1)) and data.paces[0] == 0 and data.grid == ()


def test_the_grid_is_that_of_pictures_of_one_size(tmp_path):
    alike = module(write_set(tmp_path / "alike", [(4, 6)] * 20, media="image"))
    assert alike.grid == (4, 6) and alike.paces == ()
    assert module(write_set(tmp_path / "others", [(4, 6), (4, 5)] * 10, media="image")).grid == ()


def test_pictures_are_padded_along_both_axes(tmp_path):
    shapes = [(4, 6), (6, 4), (4, 6), (5, 6), (4, 6)] * 4
    data = module(write_set(tmp_path / "set", shapes, media="image"), bucket_ratio=1.3)
    seen = 0
    for batch in [*round_of(data), *data.val_dataloader()]:
        for codes, (height, width) in rows(batch):
            inside = codes[:, :height, :width].numpy()
            assert any(np.array_equal(inside, code_of(k, shapes[k])) for k in range(20))
            assert (codes >= 0).sum() == inside.size
            seen += 1
    assert seen == 20
    assert any(len({tuple(size.tolist()) for size in batch["lengths"]}) > 1 for batch in round_of(data))


def test_longer_items_are_left_out_and_that_is_said(speech, caplog):
    data = module(speech, longest=30)
    assert max(int(batch["lengths"].max()) for batch in round_of(data)) <= 30
    assert "items to train on are longer than 30 cells and left out" in caplog.text


def test_or_parts_of_them_are_drawn_anew_each_round(speech):
    data = module(speech, longest=20, crop=True)
    stream, rounds = data.train_stream(0, 1), len(data._train.buckets)
    parts = set()
    for k in range(3 * rounds):
        batch = stream.batch(k)
        assert batch["lengths"].max() <= 20
        for codes, length in rows(batch):
            whole = [code_of(k, shape) for k, shape in enumerate(lengths_of(40))]
            part = codes[:, :length].numpy()
            found = [
                (number, start)
                for number, item in enumerate(whole)
                for start in range(item.shape[1] - int(length) + 1)
                if np.array_equal(item[:, start : start + int(length)], part)
            ]
            assert len(found) == 1
            parts.update(found)
    items = len(data._train.items)
    assert len({number for number, _ in parts}) == items and len(parts) > 1.5 * items


def part_in(items, part):
    """Of which item this is a part."""
    return next(
        number
        for number, item in items.items()
        for start in range(item.shape[1] - part.shape[1] + 1)
        if np.array_equal(item[:, start : start + part.shape[1]], part)
    )


def test_a_reference_is_a_part_of_another_item_of_the_label(speech):
    data, without = module(speech, reference=8), module(speech)
    whole = {k: code_of(k, shape) for k, shape in enumerate(lengths_of(40))}
    train = numbers_of(data._train.batch(k) for k in range(len(data._train.buckets)))
    pairs = set()
    for number in range(3 * len(data._train.buckets)):
        batch = data.train_stream(0, 1).batch(number)
        assert torch.equal(batch["codes"], without.train_stream(0, 1).batch(number)["codes"])
        assert torch.equal(batch["reference"], data.train_stream(0, 1).batch(number)["reference"])
        assert batch["reference"].shape[2] == 3
        for codes, length, label, reference in rows(batch, "label", "reference"):
            item, there = number_of(codes, length), int((reference[:, 0] >= 0).sum())
            assert (reference[there:] == -1).all() and (there > 0) == (label >= 0)
            if there:
                other = part_in(whole, reference[:there].T.numpy())
                assert other in train and other != item and other % 3 == item % 3 and other % 4
                assert there == min(8, whole[other].shape[1])
                pairs.add((item, other))
    assert len(pairs) > 1.5 * len({item for item, _ in pairs})  # another one each time


def test_references_need_labels_that_items_share_and_sound(speech, tmp_path):
    with pytest.raises(UserError, match="references of 0 frames; ask for 1 or more"):
        module(speech, reference=0)
    with pytest.raises(UserError, match="no two of these items share one"):
        module(write_set(tmp_path / "few", [(9,)] * 3, first=1), reference=8, valid_percent=40)
    with pytest.raises(UserError, match="these are pictures; leave reference out"):
        module(write_set(tmp_path / "set", [(4, 6)] * 20, media="image"), reference=8)


def train(folder, data, steps, resume=None):
    recorder, logger = Recorder(lambda batch: [numbers_of([batch])]), CSVLogger(folder)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=folder, logger=logger, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(recorder, datamodule=data, ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / "last.ckpt")
    return recorder.seen, logger


# Epochs have 5 batches: stopped in one, at the end of one, and with or without worker processes.
@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (5, 2), (13, 0)])
def test_a_resumed_run_goes_on_with_the_batch_after_the_last_one(speech, tmp_path, stop, workers):
    def data():
        return TokenSets([speech], batch_cells=200, valid_percent=25, epoch_batches=5, workers=workers, seed=3)

    whole, logger = train(tmp_path, data(), 20)
    before, _ = train(tmp_path, data(), stop)
    after, _ = train(tmp_path, data(), 20, resume=tmp_path / "last.ckpt")
    assert before + after == whole
    logger.save()
    assert "data/padding" in Path(logger.log_dir, "metrics.csv").read_text()


def test_ranks_share_the_batches_and_seeds_order_them(speech):
    data = module(speech, epoch_batches=4)
    alone = [data.train_stream(0, 1).batch(k)["codes"] for k in range(8)]
    ranks = [list(data.train_stream(rank, 2)) for rank in (0, 1)]
    assert all(torch.equal(ranks[k % 2][k // 2]["codes"], alone[k]) for k in range(8))
    other = module(speech, seed=1).train_stream(0, 1)
    assert any(not torch.equal(other.batch(k)["codes"], alone[k]) for k in range(8))


def test_tokens_of_another_codec_or_other_weights_are_refused(speech, tmp_path):
    with pytest.raises(UserError, match="was made by codec 'toy.speech', asked for is 'spectral.speech-16khz'"):
        module(speech, codec="spectral.speech-16khz")
    with pytest.raises(UserError, match="with weights abababababab, asked for are those of cdcdcdcdcdcd"):
        module(speech, codec="toy.speech", weights="cd" * 32)
    other = write_set(tmp_path / "other", lengths_of(9), weights="cd" * 32)
    with pytest.raises(UserError, match="with weights cdcdcdcdcdcd"):
        module([speech, other])
    with pytest.raises(UserError, match="with weights cdcdcdcdcdcd"):
        module(speech, valid_sets=[other])
    assert module(speech, codec="toy.speech", weights="ab" * 32).codebook_sizes == SIZES


def test_of_a_bundled_codec_the_bundled_weights_are_meant(tmp_path):
    name = "spectral.speech-16khz"
    old = write_set(tmp_path / "old", lengths_of(9), codec=name, weights="ab" * 32)
    with pytest.raises(
        UserError, match=f"with weights abababababab, asked for are those of {registry.info(name).sha256[:12]}"
    ):
        module(old, codec=name)
    new = write_set(tmp_path / "new", lengths_of(40), codec=name, weights=registry.info(name).sha256)
    assert module(new, codec=name).codebook_sizes == SIZES


def test_sets_of_other_codebooks_are_refused_unless_the_first_are_asked_for(speech, tmp_path):
    fewer = write_set(tmp_path / "fewer", lengths_of(9), sizes=SIZES[:2])
    with pytest.raises(UserError, match="holds 2 codebooks, .* holds 3; say how many"):
        module([speech, fewer])
    with pytest.raises(UserError, match="holds 2 codebooks, 3 were asked for"):
        module([speech, fewer], codebooks=3)
    assert module([speech, fewer], codebooks=2).codebook_sizes == SIZES[:2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_percent": 0}, "set 0 apart"),
        ({"valid_percent": 100}, "set 40 apart"),
        ({"longest": 2}, "no item to train on has 2 cells or fewer"),
    ],
)
def test_settings_that_leave_nothing_are_refused(speech, settings, message):
    with pytest.raises(UserError, match=message):
        module(speech, **settings)


def test_no_set_and_pictures_to_crop_are_refused(tmp_path):
    with pytest.raises(UserError, match="no token set to train on"):
        TokenSets([]).setup("fit")
    pictures = write_set(tmp_path / "set", [(4, 6)] * 20, media="image")
    with pytest.raises(UserError, match="pictures cannot be cropped"):
        module(pictures, crop=True)
