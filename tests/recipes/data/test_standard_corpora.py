"""LibriTTS and VCTK, on tiny trees of the layout that the real corpora have once unpacked."""

import pytest
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from tone_files import pitch, write_tone

from zoo.codecs.errors import UserError
from zoo.recipes.data.crops import CropConfig
from zoo.recipes.data.standard import VCTK, LibriTTS

SMALL = {"sample_rate": 16_000, "crops": CropConfig(seconds=0.25), "batch_size": 2, "epoch_batches": 3}


@pytest.fixture
def libritts(tmp_path):
    """Two training subsets of one speaker each (600 Hz) and a development set (1200 Hz), at 24 kHz, with texts."""
    for subset, speaker, hertz in (
        ("train-clean-100", 19, 600),
        ("train-clean-360", 100, 600),
        ("dev-clean", 84, 1200),
    ):
        for segment in range(2):
            name = f"{speaker}_198_00000{segment}_000000"
            folder = tmp_path / "LibriTTS" / subset / str(speaker) / "198"
            write_tone(folder / f"{name}.wav", hertz, seconds=1.0, rate=24_000)
            (folder / f"{name}.original.txt").write_text("A tone.")
            (folder / f"{name}.normalized.txt").write_text("A tone.")
    return tmp_path


@pytest.fixture
def vctk(tmp_path):
    """Two speakers, of 600 and of 1200 Hz, at 48 kHz from two microphones."""
    for speaker, hertz in (("p225", 1200), ("p230", 600)):
        (tmp_path / "VCTK-Corpus-0.92" / "txt" / speaker).mkdir(parents=True)
        for utterance in ("001", "002"):
            (tmp_path / "VCTK-Corpus-0.92" / "txt" / speaker / f"{speaker}_{utterance}.txt").write_text("A tone.")
            audio = tmp_path / "VCTK-Corpus-0.92" / "wav48_silence_trimmed" / speaker
            for microphone in ("mic1", "mic2"):
                write_tone(audio / f"{speaker}_{utterance}_{microphone}.flac", hertz, seconds=1.0, rate=48_000)
    return tmp_path


def check_batches(module, valid_names):
    """600 Hz to train on, 1200 Hz to validate on, at 16 kHz."""
    module.prepare_data()
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert [tuple(batch["audio"].shape) for batch in batches] == [(2, 1, 4000)] * 3
    assert all(pitch(crop[0].numpy(), 16_000) == pytest.approx(600, abs=8) for b in batches for crop in b["audio"])
    valid = list(module.val_dataloader())
    assert sorted(batch["names"][0] for batch in valid) == valid_names
    for batch in valid:
        assert tuple(batch["audio"].shape) == (1, 1, 16_000)
        assert pitch(batch["audio"][0, 0].numpy(), 16_000) == pytest.approx(1200, abs=8)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_libritts_trains_on_its_training_subsets_and_validates_on_dev_clean(libritts, cache):
    module = LibriTTS(str(libritts), cache=cache, **SMALL)
    check_batches(module, [f"LibriTTS/dev-clean/84/198/84_198_00000{k}_000000.wav" for k in (0, 1)])
    assert set(module.find_clips()[0].folders) == {"19", "100"}


def test_vctk_trains_on_all_but_the_validation_speakers(vctk):
    module = VCTK(str(vctk), valid_speakers=("p225",), **SMALL)
    check_batches(module, [f"p225/p225_00{k}_mic2.flac" for k in (1, 2)])


def test_an_absent_corpus_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="LibriTTS/train-clean-100 is not there.*download: true"):
        LibriTTS(str(tmp_path), **SMALL).prepare_data()
    with pytest.raises(UserError, match="VCTK-Corpus-0.92 is not there.*download: true"):
        VCTK(str(tmp_path), **SMALL).prepare_data()


def test_validation_speakers_that_the_corpus_lacks_are_an_error(vctk):
    with pytest.raises(UserError, match="no files of VCTK for p999"):
        VCTK(str(vctk), valid_speakers=("p999",), **SMALL).setup("fit")


def test_a_recipe_can_name_a_standard_corpus_in_yaml(libritts):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    arguments = {"root": str(libritts), "train_subsets": ["train-clean-100"], "sample_rate": 24_000, "workers": 3}
    recipe = {"class_path": "zoo.recipes.data.standard.LibriTTS", "init_args": arguments}
    data = parser.instantiate_classes(parser.parse_object({"data": recipe})).data
    assert (tuple(data.train_subsets), data.sample_rate, data.workers) == (("train-clean-100",), 24_000, 3)
