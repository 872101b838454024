"""Distances of pictures know what they are meant to know, and discriminators learn."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from zoo.codecs.errors import UserError
from zoo.recipes.balancer import AdaptiveAdversary
from zoo.recipes.data.picture_generated import Scenes
from zoo.recipes.losses.adversarial import LeCam, hinge_discriminator
from zoo.recipes.losses.contrast import ContrastDistance
from zoo.recipes.losses.discriminators import Verdict
from zoo.recipes.losses.picture_discriminators import PictureDiscriminatorConfig, PictureDiscriminators, spread
from zoo.recipes.losses.vgg import STAGES, VGGDistance

DISTANCE = ContrastDistance()


def scenes(count: int = 2, size: int = 64, first: int = 0) -> torch.Tensor:
    source = Scenes(size, seed=1)
    return torch.stack([torch.from_numpy(source.crop(first + k)) for k in range(count)])


def noise(like: torch.Tensor, amplitude: float) -> torch.Tensor:
    return amplitude * torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def test_equal_pictures_have_no_contrast_distance_and_it_grows_with_noise():
    real = scenes()
    assert DISTANCE(real, real) < 1e-3
    distances = [DISTANCE(real, real + noise(real, amplitude)) for amplitude in (0.01, 0.03, 0.1)]
    assert distances == sorted(distances) and distances[0] > 0.02


def test_at_equal_squared_error_lost_texture_counts_more_than_another_brightness():
    real = scenes()
    blurred = interpolate(avg_pool2d(real, 4), scale_factor=4.0, mode="bilinear")
    error = (real - blurred).square().mean().sqrt()
    assert DISTANCE(real, blurred) > 3 * DISTANCE(real, real + error)


def test_an_error_hides_where_there_is_much_going_on():
    flat = torch.full((1, 3, 64, 64), 0.5)
    busy = flat + noise(flat, 0.3)
    error = 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert DISTANCE(flat, flat + error) > 2 * DISTANCE(busy, busy + error)


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (64, 33)])
def test_the_contrast_distance_takes_any_size_and_its_gradient_is_finite_even_for_grey(size):
    fake = torch.full((2, 3, *size), 0.5, requires_grad=True)
    DISTANCE(torch.full((2, 3, *size), 0.5), fake).backward()
    assert torch.isfinite(fake.grad).all()


def test_the_vgg_distance_reads_cached_weights_and_saves_none(tmp_path, monkeypatch):
    # Random weights of the true network: enough to tell equal from unequal, and what goes into a checkpoint.
    from torchvision.models import vgg16

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    network = vgg16()
    saved = {name: value for name, value in network.state_dict().items() if name.startswith("features.")}
    torch.save(saved, tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth")
    distance, real = VGGDistance(), scenes(size=32)
    assert distance.state_dict() == {}
    assert distance(real, real) == 0 < distance(real, 1 - real)
    x = (real - distance.mean) / distance.deviation
    for layer in network.features[:30]:
        x = layer(x)
    deepest = distance.features(real)[-1]
    assert len(distance.features(real)) == len(STAGES)
    torch.testing.assert_close(deepest, x / x.square().sum(1, keepdim=True).add(1e-10).sqrt(), rtol=1e-4, atol=1e-5)


def textured(chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Real: grainy; not: flat, of the same colours."""
    flat = torch.rand(4, 3, 1, 1, generator=chance).expand(4, 3, 32, 32)
    return (flat + 0.2 * torch.randn(flat.shape, generator=chance)).clamp(0, 1), flat


def upright(chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Real: bright at the top; not: upside down."""
    ramp = torch.linspace(1, 0, 32)[:, None].expand(4, 3, 32, 32)
    real = ramp * torch.rand(4, 3, 1, 1, generator=chance)
    return real, real.flip(2)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (PictureDiscriminatorConfig(8, 2), textured),
        (PictureDiscriminatorConfig(0, style_size=32, style_channels=8, style_most=16), upright),
    ],
)
def test_discriminators_learn_what_tells_the_real_from_the_rest(config, task):
    torch.manual_seed(0)
    judges, chance = PictureDiscriminators(config), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(judges.parameters(), lr=3e-3, betas=(0.5, 0.9))
    losses = []
    for _ in range(50):
        real, fake = task(chance)
        loss = hinge_discriminator(judges(real), judges(fake))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.5 < 1.5 < losses[0]  # 2 for not knowing


def test_a_patch_is_judged_without_its_neighbours_in_the_batch():
    judges = PictureDiscriminators(PictureDiscriminatorConfig(8, 2))
    pictures = scenes(3, 32)
    together, alone = judges(pictures)[0].logits[:1], judges(pictures[:1])[0].logits
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_crops_of_another_size_than_the_discriminator_expects_are_the_users_error():
    judges = PictureDiscriminators(PictureDiscriminatorConfig(0, style_size=32))
    with pytest.raises(UserError, match="48 x 48.*style_size 32"):
        judges(torch.rand(1, 3, 48, 48))
    with pytest.raises(UserError, match="power of two"):
        PictureDiscriminatorConfig(style_size=48)
    with pytest.raises(UserError, match="there are none"):
        PictureDiscriminators(PictureDiscriminatorConfig(0))


def test_spread_is_the_standard_deviation_within_a_group():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None].expand(4, 2, 5, 5)
    assert spread(x).shape == (4, 1, 5, 5)
    assert spread(x).unique().tolist() == pytest.approx([1.25**0.5])
    assert spread(x[:1]).abs().max() < 1e-3


def verdicts(value: float) -> list[Verdict]:
    return [Verdict(torch.full((2, 1, 3, 3), value), [])]


def test_lecam_pulls_towards_running_means_that_travel_with_the_checkpoint():
    lecam = LeCam(decay=0.5)
    lecam(verdicts(2.0), verdicts(-2.0))
    assert (float(lecam.real), float(lecam.fake)) == (1.0, -1.0)
    restored = LeCam(decay=0.5)
    restored.load_state_dict(lecam.state_dict())
    # means move to 1.5 and -1.5; then (2 + 1.5)^2 from each side
    assert float(restored(verdicts(2.0), verdicts(-2.0))) == pytest.approx(2 * 3.5**2)


def test_the_adaptive_adversary_pulls_as_hard_as_the_distances_whatever_its_scale():
    output, weights = torch.zeros(4, 2, requires_grad=True), {"absolute": 2.0, "adversarial": 0.5}
    for scale in (1e-3, 1.0, 100.0):
        losses = {"absolute": output[:, 0].sum(), "adversarial": scale * output[:, 1].sum()}
        gradient = AdaptiveAdversary()(losses, weights, output)
        torch.testing.assert_close(gradient, torch.tensor([2.0, 1.0]).expand(4, 2))
    del losses["adversarial"]
    torch.testing.assert_close(AdaptiveAdversary()(losses, weights, output), torch.tensor([2.0, 0.0]).expand(4, 2))


def test_an_adversary_with_nothing_to_say_yet_is_not_blown_up_without_bound():
    output = torch.zeros(4, 2, requires_grad=True)
    losses = {"absolute": output[:, 0].sum(), "adversarial": 1e-9 * output[:, 1].sum()}
    gradient = AdaptiveAdversary(largest=100.0)(losses, {"absolute": 1.0, "adversarial": 1.0}, output)
    assert float(gradient[0, 1]) == pytest.approx(1e-7)
