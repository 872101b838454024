import math

import pytest
import torch

from zoo.recipes.losses.adversarial import feature_matching, hinge_discriminator, hinge_generator
from zoo.recipes.losses.discriminators import DiscriminatorConfig, Discriminators, Verdict
from zoo.recipes.losses.mel import MelDistance
from zoo.recipes.losses.spectra import Spectra, noise_to_signal

RATE = 16000


def noise(seed=0, amplitude=0.1, shape=(2, 1, 8000)):
    return amplitude * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sine(pitch=1000.0, amplitude=1.0, phase=0.0):
    return amplitude * torch.sin(2 * math.pi * pitch * torch.arange(8000) / RATE + phase)[None, None]


def test_a_full_scale_sine_has_magnitude_one_at_every_window_size():
    for size, (target, _) in Spectra([1024, 256, 64])(sine(), sine()).items():
        assert target[0, 8000 // size * 2].abs().max() == pytest.approx(1.0, rel=1e-3)


def test_mel_distance_of_a_gain_is_its_logarithm_at_every_scale():
    sizes = (1024, 256, 64)
    spectra = Spectra(sizes)(noise(), 2 * noise())
    assert MelDistance(RATE, sizes)(spectra).item() == pytest.approx(math.log(2), rel=1e-4)
    # the root mean square of a constant difference is that difference, so it is added once more
    assert MelDistance(RATE, sizes, squared=1.0)(spectra).item() == pytest.approx(2 * math.log(2), rel=1e-3)


def test_every_mel_band_holds_energy_of_noise():
    mel = MelDistance(RATE, (2048, 1024, 512, 256, 128, 64))
    spectra = Spectra(mel.sizes)(noise(), noise())
    for size in mel.sizes:
        assert mel.log_mel(size, spectra[size][0]).mean((0, 1)).min() > math.log(1e-4)


def test_noise_to_signal_hears_phase_and_mel_does_not():
    real, turned = sine(), sine(phase=math.pi / 2)
    spectra = Spectra([512])(real, turned)
    assert MelDistance(RATE, (512,), floor=1e-2)(spectra) < 0.05
    assert noise_to_signal(spectra[512]).item() == pytest.approx(math.sqrt(2), rel=0.05)  # |1 - i|


def test_noise_to_signal_is_one_for_silence_in_place_of_signal_and_small_for_near_silent_targets():
    assert noise_to_signal(Spectra([512])(sine(), 0 * sine())[512]).item() == pytest.approx(1.0, rel=0.02)
    faint = Spectra([512])(noise(amplitude=1e-5), noise(1, amplitude=1e-5))[512]
    assert noise_to_signal(faint) < 0.1


@pytest.mark.parametrize("amplitude", [0.0, 1e-8, 1.0])
def test_gradients_of_all_distances_are_finite_even_for_silence(amplitude):
    real, fake = noise(amplitude=amplitude), torch.zeros(2, 1, 8000, requires_grad=True)
    spectra = Spectra([512, 128])(real, fake)
    (MelDistance(RATE, (512, 128), squared=1.0)(spectra) + noise_to_signal(spectra[512])).backward()
    assert torch.isfinite(fake.grad).all()


def test_hinge_losses_are_zero_exactly_when_their_side_has_won():
    sure = [Verdict(torch.full((2, 3), 1.5), [])]
    unsure = [Verdict(torch.zeros(2, 3), [])]
    fooled = [Verdict(torch.full((2, 3), -1.5), [])]
    assert hinge_discriminator(sure, fooled) == 0
    assert hinge_discriminator(unsure, unsure) == 2  # 1 for each side
    assert hinge_generator(sure) == 0
    assert hinge_generator(fooled) == 2.5


def test_feature_matching_is_relative_to_the_real_features_and_trains_only_the_fake_ones():
    real, fake = torch.full((4,), 2.0, requires_grad=True), torch.full((4,), 1.0, requires_grad=True)
    loss = feature_matching([Verdict(real, [real, 10 * real])], [Verdict(fake, [fake, 10 * fake])])
    loss.backward()
    assert loss == 0.5
    assert real.grad is None and (fake.grad < 0).all()


@pytest.mark.parametrize(
    "config", [DiscriminatorConfig((256, 64), 4, (), ()), DiscriminatorConfig((), 4, (2, 3), (4, 8))]
)  # fmt: skip
def test_discriminators_learn_to_tell_noise_from_tones(config):
    torch.manual_seed(0)
    judges = Discriminators(config)
    optimizer = torch.optim.AdamW(judges.parameters(), lr=3e-3)
    for step in range(120):
        real = torch.cat([sine(500 + 5 * step, 0.3), sine(900 - 5 * step, 0.3)])[..., :2000]
        loss = hinge_discriminator(judges(real), judges(noise(step, 0.2, (2, 1, 2000))))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.9  # 2 at the start, and without learning


def test_discriminators_take_any_length_and_several_channels():
    judges = Discriminators(DiscriminatorConfig((64,), 4, (3, 5), (4,)), channels=2)
    verdicts = judges(noise(shape=(3, 2, 1001)))
    assert len(verdicts) == 3
    assert all(verdict.logits.shape[0] == 3 and verdict.logits.shape[1] == 1 for verdict in verdicts)
