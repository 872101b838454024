import pytest
import torch
from torch import nn

from zoo.codecs.quantizers import residual_vq
from zoo.recipes.ema import WeightAverage


def test_the_average_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.5)
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(20):
        average.update(model)
        seen.append(1 - average.module.weight.item())
    # decays 1/10, 2/11, 3/12, ... until .5 at the ninth update
    assert seen[:3] == pytest.approx([0.1, 0.1 * 2 / 11, 0.1 * 2 / 11 * 3 / 12], rel=1e-4)
    assert seen[15] / seen[14] == pytest.approx(0.5, rel=1e-2)


def test_the_average_stays_in_eval_mode_and_never_trains():
    average = WeightAverage(nn.Dropout(), decay=0.9).train()
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in WeightAverage(nn.Linear(2, 2), 0.9).parameters())


def test_codebooks_are_averaged_and_counters_copied_through_a_k_means_start():
    quantizer = residual_vq(4, 8, 2, kmeans_vectors=64)
    average = WeightAverage(quantizer, decay=0.9)
    for step in range(60):  # the first two passes only gather vectors: a buffer grows, then has no rows
        quantizer(torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(step)))
        average.update(quantizer)
    mean, live = average.module, quantizer
    assert mean.start.fitted and mean.start.gathered.shape == live.start.gathered.shape == (0, 4)
    assert int(mean.levels[0].steps) == int(live.levels[0].steps) == 58 + 1
    distance = (mean.levels[0].embedding - live.levels[0].embedding).norm() / live.levels[0].embedding.norm()
    assert 0 < distance < 0.3  # .3 would be a quarter of the way to unrelated codewords


def test_a_restart_equals_the_model():
    model = nn.Linear(3, 3)
    average = WeightAverage(model, decay=0.9)
    average.update(model)
    nn.init.normal_(model.weight)
    average.restart(model)
    assert torch.equal(average.module.weight, model.weight)
    assert int(average.updates) == 0


def test_weights_that_have_two_names_move_once():
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
    model[1].weight = model[0].weight
    nn.init.zeros_(model[0].weight)
    average = WeightAverage(model, decay=0.5)
    nn.init.ones_(model[0].weight)
    average.update(model)
    assert average.module[0].weight is average.module[1].weight
    assert average.module[0].weight.item() == pytest.approx(0.9)  # 1/10 of the old
