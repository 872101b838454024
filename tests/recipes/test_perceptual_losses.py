import math
from pathlib import Path

import pytest
import soundfile
import torch

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.recipes import metrics
from zoo.recipes.audio import AudioLosses, AudioRecipe
from zoo.recipes.losses.intelligibility import EnvelopeCorrelation
from zoo.recipes.losses.loudness import SIZE, Disturbance
from zoo.recipes.losses.spectra import Spectra

RATE = 16000


@pytest.fixture(scope="module")
def speech():
    (path,) = (Path(zoo.__file__).parent / "assets").glob("*.flac")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return torch.from_numpy(samples)[None, None, : 4 * RATE]


@pytest.fixture(scope="module")
def damaged(speech):
    """The same speech in ever less noise."""
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0)) * speech.std()
    return [speech + noise * 10 ** (-ratio / 20) for ratio in (5, 15, 25, 35)]


def disturbance(target, output):
    return Disturbance(RATE)(Spectra([SIZE])(target, output)[SIZE])


def lost_envelopes(target, output):
    return EnvelopeCorrelation(RATE, SIZE)(Spectra([SIZE])(target, output)[SIZE])


def test_disturbance_predicts_the_score_of_the_standard(speech, damaged):
    for output in damaged:
        predicted = 0.999 + 4 / (1 + math.exp(3.8224 - 1.3669 * (4.5 - float(disturbance(speech, output)))))
        assert predicted == pytest.approx(metrics.pesq_wb(speech[0, 0], output[0, 0], RATE).value, abs=0.35)


def test_disturbance_does_not_depend_on_the_level_of_both(speech, damaged):
    for output in damaged[:2]:
        loud, quiet = (float(disturbance(gain * speech, gain * output)) for gain in (1.0, 0.1))
        assert quiet == pytest.approx(loud, rel=1e-2)


def test_added_sound_disturbs_more_than_missing_sound(speech):
    spectrum = torch.stft(speech[0], 512, window=torch.hann_window(512), return_complex=True)
    softer, louder = spectrum.clone(), spectrum.clone()
    softer[:, 40:80] *= 0.25
    louder[:, 40:80] *= 4
    missing, added = (
        torch.istft(changed, 512, window=torch.hann_window(512), length=speech.shape[2])[:, None]
        for changed in (softer, louder)
    )
    assert disturbance(speech, added) > disturbance(speech, missing) > 0.1


def test_no_difference_is_no_loss(speech):
    assert disturbance(speech, speech) < 1e-2
    assert lost_envelopes(speech, speech).abs() < 1e-3


def test_disturbance_refuses_other_rates():
    with pytest.raises(UserError, match="24000"):
        Disturbance(24000)


def test_envelopes_rank_outputs_as_stoi_does(speech, damaged):
    ours = [float(lost_envelopes(speech, output)) for output in damaged]
    theirs = [metrics.stoi(speech[0, 0], output[0, 0], RATE).value for output in damaged]
    assert ours == sorted(ours, reverse=True)
    assert theirs == sorted(theirs)


def test_envelopes_ignore_a_gain_and_reject_other_sounds(speech):
    assert lost_envelopes(speech, 0.3 * speech).abs() < 1e-3
    assert lost_envelopes(speech, torch.randn(speech.shape)) > 0.8


@pytest.mark.parametrize("amplitude", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("loss", [disturbance, lost_envelopes])
def test_gradients_are_finite_even_for_silence(loss, amplitude):
    target = amplitude * torch.randn(2, 1, RATE, generator=torch.Generator().manual_seed(0))
    output = torch.zeros(2, 1, RATE, requires_grad=True)
    loss(target, output).backward()
    assert output.grad.isfinite().all()


def small_codec(**changes):
    return zoo.create(
        "seanet",
        sample_rate=RATE,
        ratios=(4, 2),
        filters=4,
        dim=8,
        codebooks=3,
        codebook_size=32,
        lstm_layers=0,
        **changes,
    )


def test_a_recipe_starts_from_the_weights_of_a_checkpoint(tmp_path):
    trained = small_codec()
    checkpoint.save(trained, tmp_path)
    recipe = AudioRecipe(
        small_codec(), steps=10, losses=AudioLosses(loudness=1.0, envelopes=1.0), start_from=str(tmp_path)
    )
    for started in (recipe.codec, recipe.average.module):
        for name, tensor in trained.state_dict().items():
            assert torch.equal(started.state_dict()[name], tensor)


def test_a_recipe_does_not_start_from_another_shape(tmp_path):
    checkpoint.save(small_codec(), tmp_path)
    with pytest.raises(UserError, match="can't start from"):
        AudioRecipe(small_codec(causal=False), steps=10, start_from=str(tmp_path))
