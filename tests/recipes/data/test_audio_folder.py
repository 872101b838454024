"""What `AudioFolder` promises: the same crops for the same numbers, whatever happens around them."""

import logging
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from tone_files import RATE, pitch, write_tone

from zoo.codecs.errors import UserError
from zoo.recipes.data.audio_folder import AudioFolder
from zoo.recipes.data.crops import CropConfig
from zoo.recipes.data.files import held_out, in_turns

STILL = {"gain_db": (0.0, 0.0)}  # crops as they are in the files


def folder(root, crops=None, **options):
    crops = CropConfig(**{"seconds": 0.25, **(crops or {})})
    options = {"sample_rate": RATE, "batch_size": 4, "epoch_batches": 5, "valid_dir": str(root)} | options
    module = AudioFolder(str(root), crops=crops, **options)
    module.setup("fit")
    return module


def drawn(module) -> torch.Tensor:
    return torch.cat([batch["audio"] for batch in module.train_dataloader()])


def pitches(module, count=400) -> Counter:
    crops = (module.train_source().crop(k)[0] for k in range(count))
    return Counter(min((500, 1000, 2000), key=lambda hertz: abs(hertz - pitch(crop))) for crop in crops)


def test_batches_are_float32_batch_channel_time(tones):
    batches = list(folder(tones).train_dataloader())
    assert len(batches) == 5
    assert {(tuple(batch["audio"].shape), batch["audio"].dtype) for batch in batches} == {((4, 1, 2000), torch.float32)}


def test_the_same_seed_draws_the_same_crops_and_another_seed_others(tones):
    first = drawn(folder(tones, {"stretch_share": 0.5}))
    assert torch.equal(first, drawn(folder(tones, {"stretch_share": 0.5})))
    assert not torch.equal(first, drawn(folder(tones, {"stretch_share": 0.5, "seed": 1})))
    assert len({crop.numpy().tobytes() for crop in first}) == len(first)


def test_crops_do_not_depend_on_the_number_of_workers(tones):
    assert torch.equal(drawn(folder(tones)), drawn(folder(tones, workers=2)))


def test_crops_read_from_disk_equal_those_from_memory_to_16_bits(tones):
    from_disk, from_memory = drawn(folder(tones, STILL, cache="none")), drawn(folder(tones, STILL))
    # Half a step of 16 bits is 1.5e-5; ogg samples may round the other way when decoded from the middle.
    assert (from_disk - from_memory).abs().max() < 5e-5


def test_a_file_of_another_rate_is_resampled_alike_in_memory_and_from_disk(tmp_path):
    time = np.arange(4 * 12_000) / 12_000
    soundfile.write(tmp_path / "0.wav", 0.2 * np.sin(2 * np.pi * (100 + 40 * time) * time), 12_000)
    from_disk, from_memory = drawn(folder(tmp_path, STILL, cache="none")), drawn(folder(tmp_path, STILL))
    # A crop from disk starts up to one sample of 12 kHz early, where a tone of 420 Hz has moved by .044;
    # its first and last milliseconds lack the neighbours that the resampler would see in the whole file.
    assert (from_disk - from_memory)[..., 20:-20].abs().max() < 0.05
    assert from_disk.abs().amax((1, 2)).min() > 0.19


def test_every_second_of_audio_is_equally_likely_without_shares(tones):
    counts = pitches(folder(tones))
    # 12, 6 and 2 of 20 seconds; 400 draws have a standard deviation of at most 10.
    assert counts[500] == pytest.approx(240, abs=40)
    assert counts[1000] == pytest.approx(120, abs=40)
    assert counts[2000] == pytest.approx(40, abs=25)


def test_a_share_is_the_part_of_the_crops_that_come_from_matching_folders(tones):
    counts = pitches(folder(tones, {"shares": {"h*": 0.5, "m*": 0.1}}))
    assert counts[2000] == pytest.approx(200, abs=40)
    assert counts[1000] == pytest.approx(40, abs=25)
    assert pitches(folder(tones, {"shares": {"h*": 0.0}}), 100)[2000] == 0


def test_a_share_that_matches_no_folder_is_an_error_that_names_the_folders(tones):
    with pytest.raises(UserError, match=r"'sythetic-\*'.*high, low, middle"):
        folder(tones, {"shares": {"sythetic-*": 0.3}})


def test_gain_is_spread_over_its_range_and_never_clips(tones):
    crops = drawn(folder(tones, {"gain_db": (-12.0, 30.0)}, epoch_batches=40)).abs().amax((1, 2))
    assert 0.2 * 10 ** (-12 / 20) * 0.99 < crops.min() < 0.1
    assert crops.max() == pytest.approx(1.0, abs=1e-3)  # 0.2 of full scale and 30 dB would be 6.3


def test_level_brings_loud_and_quiet_files_together(tmp_path):
    write_tone(tmp_path / "loud" / "0.wav", 500, amplitude=0.9)
    write_tone(tmp_path / "quiet" / "0.wav", 500, amplitude=0.03)
    crops = drawn(folder(tmp_path, STILL | {"level_db": -20.0}))
    assert torch.allclose(crops.square().mean((1, 2)), torch.tensor(0.01), rtol=0.05)  # -20 dB is 0.01


def test_stretching_lowers_the_pitch_and_keeps_the_length(tmp_path):
    write_tone(tmp_path / "a" / "0.wav", 900)
    source = folder(tmp_path, STILL | {"stretches": (1.5, 0.9), "stretch_share": 0.5}).train_source()
    crops = [source.crop(k)[0] for k in range(100)]
    assert {crop.shape for crop in crops} == {(2000,)}
    found = Counter(min((600, 900, 1000), key=lambda hertz: abs(hertz - pitch(crop))) for crop in crops)
    assert found[900] == pytest.approx(50, abs=20)
    assert found[600] > 10 and found[1000] > 10
    assert all(np.abs(crop[-50:]).max() > 0.1 for crop in crops)  # no padding at the end


def test_clips_shorter_than_a_crop_are_followed_by_others_of_the_same_folder(tmp_path):
    for k in range(4):
        write_tone(tmp_path / "low" / f"{k}.wav", 500, seconds=0.06)
        write_tone(tmp_path / "high" / f"{k}.wav", 2000, seconds=0.06)
    source = folder(tmp_path, STILL).train_source()
    for k in range(20):
        crop = source.crop(k)[0]
        assert np.square(crop).reshape(25, -1).mean(1).min() > 0.01  # sound (0.02) all along
        spectrum = np.abs(np.fft.rfft(crop)) ** 2
        low, high = spectrum[100:150].sum(), spectrum[475:525].sum()  # bins of 4 Hz around 500 and 2000
        assert min(low, high) < 0.01 * max(low, high)


def test_silent_places_are_drawn_again(tmp_path):
    samples = np.zeros(8 * RATE, np.float32)
    samples[:RATE] = 0.2 * np.sin(np.arange(RATE))
    soundfile.write(tmp_path / "0.wav", samples, RATE)
    crops = drawn(folder(tmp_path, epoch_batches=10))
    loud = (crops.square().mean((1, 2)) > 10 ** (-45 / 10) / 8).float().mean()  # the gain takes up to 9 dB
    # A place is loud with probability .16; in eight draws that is .75, and .16 without the redraws.
    assert loud > 0.55


def test_a_corpus_of_nothing_but_silence_still_gives_crops(tmp_path):
    soundfile.write(tmp_path / "0.wav", np.zeros(RATE, np.float32), RATE)
    assert drawn(folder(tmp_path)).abs().max() == 0


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_corrupt_and_empty_files_are_reported_once_counted_and_skipped(tones, cache, caplog):
    (tones / "low" / "broken.wav").write_bytes(b"RIFF and then nothing")
    (tones / "low" / "empty.flac").write_bytes(b"")
    soundfile.write(tones / "low" / "no-samples.wav", np.zeros(0, np.float32), RATE)
    (tones / "low" / "notes.txt").write_text("not audio, and not counted")
    with caplog.at_level(logging.WARNING):
        module = folder(tones, cache=cache, valid_clips=1)
        drawn(module)
        drawn(module)
    assert module.train_source().store.skipped == 3
    for name in ("broken.wav", "empty.flac", "no-samples.wav"):
        assert sum(f"skipping {tones / 'low' / name}" in record.message for record in caplog.records) == 1
    assert "3 of 13 audio files" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_during_training_is_skipped_reported_once_and_counted(tones, workers, caplog):
    module = folder(tones, cache="none", workers=workers, epoch_batches=10, valid_clips=1)
    for path in (tones / "low").iterdir():
        path.unlink()
    crops = drawn(module)
    assert crops.shape == (40, 1, 2000)
    assert 1 <= module.skipped <= 6
    if workers == 0:  # the records of worker processes stay there
        assert sum("skipping" in record.message for record in caplog.records) == module.skipped
    assert all(pitch(crop[0].numpy()) > 900 for crop in crops)


def test_a_corpus_that_vanishes_altogether_is_an_error(tones):
    module = folder(tones, cache="none")
    for path in tones.rglob("*.*"):
        path.unlink()
    with pytest.raises(UserError, match="files in a row could not be read"):
        drawn(module)


def test_a_folder_without_audio_or_missing_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match="holds no audio file"):
        folder(tmp_path)
    with pytest.raises(UserError, match="no-such-folder: no such folder"):
        folder(tmp_path / "no-such-folder")


def test_held_out_files_are_a_fixed_function_of_their_path():
    names = [f"speaker/{k}.flac" for k in range(40)]
    # Golden: computed once; another list would silently mix training and validation files of older checkpoints.
    assert [k for k, name in enumerate(names) if held_out(name, 10)] == [1, 4, 10, 14, 26, 33]
    assert sum(held_out(f"{k}", 0.5) for k in range(20_000)) == pytest.approx(100, abs=30)


def test_without_a_validation_folder_no_file_is_in_both_sets(tones):
    module = folder(tones, valid_dir=None, valid_percent=40.0)
    train, valid = module.find_clips()
    assert len(train.paths) + len(valid.paths) == 10
    assert not set(train.paths) & set(valid.paths)
    with pytest.raises(UserError, match="set 0 apart"):
        folder(tones, valid_dir=None, valid_percent=0.0)


def test_validation_takes_whole_clips_of_each_folder_in_turn(tones):
    module = folder(tones, valid_clips=5, valid_seconds=1.5)
    batches = list(module.val_dataloader())
    assert [batch["names"][0].split("/")[0] for batch in batches] == ["high", "low", "middle", "low", "middle"]
    assert len({batch["names"][0] for batch in batches}) == 5
    assert {tuple(batch["audio"].shape) for batch in batches} == {(1, 1, 12_000)}


def test_in_turns_gives_everything_where_there_is_less_than_asked_for(tones):
    names = [path.name for path in tones.rglob("*.wav")]
    assert sorted(in_turns(names, ["low"] * len(names), 100)) == list(range(len(names)))


def test_channels_are_averaged_to_mono_and_mono_is_repeated_for_stereo(tmp_path):
    tone = 0.2 * np.sin(np.arange(RATE, dtype=np.float32))
    soundfile.write(tmp_path / "0.wav", np.stack([tone, np.zeros(RATE)], 1), RATE)
    for cache in ("memory", "none"):
        mono = folder(tmp_path, STILL, cache=cache).train_source().crop(0)
        assert mono.shape == (1, 2000) and np.abs(mono).max() == pytest.approx(0.1, rel=0.01)
        stereo = folder(tmp_path, STILL, cache=cache, channels=2).train_source().crop(0)
        assert stereo.shape == (2, 2000) and not stereo[1].any()
    write_tone(tmp_path / "0.wav", 500)
    for cache in ("memory", "none"):
        stereo = folder(tmp_path, STILL, cache=cache, channels=2).train_source().crop(0)
        assert np.array_equal(stereo[0], stereo[1]) and stereo.any()


def test_a_recipe_can_set_every_argument_in_yaml_and_a_typo_is_refused(tones):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    recipe = {
        "class_path": "zoo.recipes.data.audio_folder.AudioFolder",
        "init_args": {
            "train_dir": str(tones),
            "batch_size": 3,
            "crops": {"seconds": 0.5, "shares": {"h*": 0.2}, "gain_db": [-3, 3]},
        },
    }
    data = parser.instantiate_classes(parser.parse_object({"data": recipe})).data
    assert (data.batch_size, data.crops.seconds, data.crops.shares) == (3, 0.5, {"h*": 0.2})
    recipe["init_args"]["batchsize"] = 3
    with pytest.raises(Exception, match="batchsize"):
        parser.parse_object({"data": recipe})
