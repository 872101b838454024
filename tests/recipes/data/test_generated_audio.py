"""Generated audio has the batches of a corpus, the same ones every time, and enough in it to learn from."""

import torch

from zoo.recipes.data.generated import GeneratedAudio


def test_sounds_are_the_same_every_time_and_differ_from_each_other():
    first, second = (torch.cat([b["audio"] for b in GeneratedAudio(seconds=0.5).train_dataloader()]) for _ in range(2))
    assert first.shape == (40, 1, 8000) and first.dtype == torch.float32
    assert torch.equal(first, second)
    assert len({sound.numpy().tobytes() for sound in first}) == 40


def test_sounds_are_neither_silent_nor_clipped():
    sounds = torch.cat([b["audio"] for b in GeneratedAudio(channels=2).train_dataloader()])
    peaks = sounds.abs().amax((1, 2))
    assert peaks.min() > 0.12 and peaks.max() < 0.71  # -18 and -3 dB


def test_validation_sounds_are_not_those_of_training():
    data = GeneratedAudio(valid_clips=3)
    trained = {sound.numpy().tobytes() for batch in data.train_dataloader() for sound in batch["audio"]}
    validated = [batch["audio"] for batch in data.val_dataloader()]
    assert [tuple(audio.shape) for audio in validated] == [(1, 1, 16000)] * 3
    assert not trained & {audio[0].numpy().tobytes() for audio in validated}
