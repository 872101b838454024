"""Picture metrics agree with their definitions and say why where they do not exist."""

import math
import sys
import types

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from zoo.recipes import picture_metrics
from zoo.recipes.data.picture_generated import Scenes
from zoo.recipes.picture_metrics import INCEPTION, FrechetDistance, contrast, ms_ssim, psnr, ssim
from zoo.recipes.validation import CodeHistogram

METRICS = [psnr, ssim, ms_ssim, contrast]


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.from_numpy(Scenes(192, seed=2).crop(0))


def noisy(picture, amplitude):
    return picture + amplitude * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))


def test_psnr_of_a_known_error(picture):
    assert psnr(picture, picture + 0.1).value == pytest.approx(20.0, abs=1e-4)
    assert "infinite" in psnr(picture, picture).reason


@pytest.mark.parametrize(("metric", "best"), [(ssim, 1.0), (ms_ssim, 1.0), (contrast, 0.0)])
def test_a_perfect_copy_gets_the_best_score(metric, best, picture):
    assert metric(picture, picture).value == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_more_noise_scores_worse(metric, picture):
    little, much = (metric(picture, noisy(picture, amplitude)).value for amplitude in (0.02, 0.1))
    assert (much > little) if metric is contrast else (much < little)


@pytest.mark.parametrize(("metric", "side"), [(ssim, 10), (ms_ssim, 175)])
def test_too_small_pictures_give_nan_and_a_reason(metric, side, picture):
    score = metric(picture[:, :side], noisy(picture, 0.1)[:, :side])
    assert math.isnan(score.value) and f"at least {side + 1}" in score.reason
    assert not metric(picture[:, : side + 1], noisy(picture, 0.1)[:, : side + 1]).reason


@pytest.mark.parametrize("metric", METRICS)
def test_values_that_are_not_finite_give_nan_and_a_reason(metric, picture):
    broken = picture.clone()
    broken[0, 5, 5] = math.nan
    assert "estimate holds NaN" in metric(picture, broken).reason


@pytest.mark.parametrize("metric", METRICS)
def test_pictures_of_two_sizes_are_an_error(metric, picture):
    with pytest.raises(ValueError, match="crop them alike"):
        metric(picture, picture[:, 1:])


def test_the_frechet_distance_says_what_is_missing_and_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(picture_metrics.importlib.util, "find_spec", lambda name: None)
    assert "pip install torch-fidelity" in FrechetDistance().take().reason
    monkeypatch.setattr(picture_metrics.importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    reason = FrechetDistance().take().reason
    assert f"{tmp_path}/hub/checkpoints/{INCEPTION}" in reason and "https://" in reason


def test_the_frechet_distance_is_that_of_torchmetrics_on_the_cached_weights(tmp_path, monkeypatch):
    class Means(torch.nn.Module):  # stands for the network, whose weights are 90 MB
        num_features = 3

        def forward(self, pictures):
            return pictures.float().mean((2, 3))

    def distance(feature=None, feature_extractor_weights_path=None, **options):
        assert feature_extractor_weights_path.endswith(INCEPTION)
        return FrechetInceptionDistance(Means(), **options)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / INCEPTION).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setattr(picture_metrics.importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(picture_metrics, "FrechetInceptionDistance", distance)
    metric, pictures = FrechetDistance(), torch.rand(16, 3, 16, 16) * 0.5
    for picture in pictures:
        metric.update(picture[None], picture[None] + 0.25)
    assert metric.take().value == pytest.approx(3 * 0.25**2, abs=0.01)  # means differ, covariances are alike
    assert "2 pictures or more, got 0" in metric.take().reason


def test_use_of_codes_is_counted_over_all_batches_and_then_anew():
    histogram = CodeHistogram((4, 8))
    assert histogram.take() == {}
    histogram.add(torch.tensor([[[0, 1]], [[0, 1]]]).transpose(1, 2).reshape(2, 1, 2).repeat(1, 2, 1))
    histogram.add(torch.tensor([[[2, 3], [0, -1]]]))
    scores = histogram.take()
    # First codebook: 0, 1, 0, 1, 2, 3; second: 0, 1, 0, 1, 0.
    assert scores["used/2 codebooks"].value == pytest.approx((4 / 4 + 2 / 8) / 2)
    first = math.exp(-(2 * (1 / 3) * math.log(1 / 3) + 2 * (1 / 6) * math.log(1 / 6)))
    second = math.exp(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)))
    assert scores["perplexity/2 codebooks"].value == pytest.approx((first + second) / 2)
    assert histogram.take() == {}
