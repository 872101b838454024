"""Residual and grouped stacks: residuals, gradients of each level, dropout, order of codebooks, resume."""

import copy

import pytest
import torch

from zoo.codecs.quantizers import (
    FactorizedVectorQuantizer,
    GroupedResidualVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
    residual_vq,
)


def random_stack(levels: int = 4) -> ResidualVectorQuantizer:
    """Levels of ever smaller random codewords, so that each has something to do."""
    quantizer = residual_vq(6, 32, levels)
    for index, level in enumerate(quantizer.levels):
        level.start_from(level.embedding * 0.5**index, torch.ones(32))
    return quantizer.eval()


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_residual_after_each_level_is_z_minus_the_levels_so_far():
    quantizer, z = random_stack(), latents(2, 6, 10)
    codes = quantizer(z).codes
    for k, level in enumerate(quantizer.levels):
        residual = z if k == 0 else z - quantizer.decode(codes[:, :k])
        distances = torch.cdist(residual.movedim(1, -1), level.embedding.expand(2, -1, -1))
        assert torch.equal(distances.argmin(-1), codes[:, k])
        torch.testing.assert_close(quantizer(z).usage.commitment[k], distances.amin(-1).square().mean() / 6)


@pytest.mark.parametrize("kind", ["vector", "factorized"])
def test_the_commitment_gradient_of_every_level_alone_reaches_the_encoder(kind):
    """A level's own loss is what its residual adds to the loss of the levels before it."""
    if kind == "vector":
        quantizer = random_stack()
    else:
        torch.manual_seed(0)
        # Square projections: if a residual kept the gradient of its codewords, the next levels' would all but cancel.
        quantizer = ResidualVectorQuantizer([FactorizedVectorQuantizer(6, 32, code_dim=6) for _ in range(4)]).eval()
        for level in quantizer.levels:
            for layer in (level.project_in, level.project_out):
                torch.nn.init.eye_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    weight = 1.0 if kind == "vector" else 0.25
    for k in range(1, 5):
        z = latents(2, 6, 10).requires_grad_()
        (own,) = torch.autograd.grad(k * quantizer(z, k).loss - (k - 1) * quantizer(z, k - 1).loss, z)
        error = (z - quantizer.decode(quantizer.encode(z, k))).detach()
        torch.testing.assert_close(own, weight * 2 * error / z.numel(), atol=1e-6, rtol=1e-4)


def test_decoder_gradient_reaches_the_encoder_once_whatever_the_number_of_levels():
    z, weights = latents(3, 6, 10).requires_grad_(), latents(3, 6, 10, seed=1)
    (random_stack()(z, torch.tensor([4, 2, 0])).z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad[:2], weights[:2])
    assert (z.grad[2] == 0).all()  # a row without codes does not depend on its latents


def test_loss_is_the_mean_over_levels_in_use():
    quantizer, z = random_stack(), latents(2, 6, 10)
    for n in (1, 3, 4):
        output = quantizer(z, n)
        torch.testing.assert_close(output.loss, output.usage.commitment[:n].mean())


def test_unused_levels_learn_nothing_and_used_ones_learn_from_their_rows_only():
    quantizer = random_stack().train()
    before = copy.deepcopy(quantizer.state_dict())
    z = latents(2, 6, 10)
    quantizer(z, torch.tensor([1, 2]))
    for level in (2, 3):
        for name in ("embedding", "counts"):
            assert torch.equal(quantizer.state_dict()[f"levels.{level}.{name}"], before[f"levels.{level}.{name}"])
    # Level 2 took in the ten vectors of the second row: .99 of the old weight of 32, .01 of the ten.
    assert quantizer.levels[1].counts.sum().item() == pytest.approx(0.99 * 32 + 0.01 * 10, rel=1e-5)


def test_a_function_of_the_errors_says_how_many_levels_each_cell_uses():
    quantizer, z = random_stack().eval(), latents(2, 6, 10)
    wanted = torch.arange(20).view(2, 10) % 5
    seen = []
    output = quantizer(z, lambda errors: seen.append(errors) or wanted)
    codes = quantizer.encode(z)
    level = torch.arange(4)[:, None]
    assert torch.equal(output.codes, torch.where(level < wanted[:, None], codes, -1))
    torch.testing.assert_close(output.z_q, quantizer.decode(output.codes))
    for count in range(5):
        left = z if count == 0 else z - quantizer.decode(codes[:, :count])
        torch.testing.assert_close(seen[0][:, count], left.square().sum(1))


def test_cells_of_few_levels_pass_one_gradient_and_cells_of_none_pass_nothing():
    z, weights = latents(2, 6, 10).requires_grad_(), latents(2, 6, 10, seed=1)
    wanted = torch.arange(20).view(2, 10) % 3
    (random_stack()(z, lambda errors: wanted).z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights * (wanted > 0)[:, None])


def test_dropped_rows_are_no_candidates_for_restarts():
    quantizer = ResidualVectorQuantizer([VectorQuantizer(1, 2), VectorQuantizer(1, 2)]).train()
    quantizer.levels[0].start_from(torch.tensor([[0.0], [1.0]]), torch.ones(2))
    quantizer.levels[1].start_from(torch.tensor([[0.1], [500.0]]), torch.tensor([1.0, 0.0]))
    z = torch.tensor([[[0.2, 0.2]], [[77.0, 77.0]]])
    assert quantizer(z, torch.tensor([2, 1])).usage.restarted.tolist() == [0, 1]
    assert quantizer.levels[1].embedding[1].item() == pytest.approx(0.2)


def test_dropout_gives_its_share_of_the_rows_a_uniform_number_of_levels():
    quantizer = residual_vq(2, 4, levels=4, dropout=0.5).train()
    z = latents(4000, 2, 1)
    used = (quantizer(z).codes >= 0).sum(dim=1).flatten()
    shares = torch.bincount(used, minlength=5) / 4000
    # A half of the rows has 1, 2, 3, 4 equally often, the other half 4. Standard deviation of a share: under .008.
    assert shares.tolist() == pytest.approx([0, 0.125, 0.125, 0.125, 0.625], abs=0.03)


def test_dropout_needs_train_mode_and_no_n_and_changes_from_step_to_step():
    quantizer, z = residual_vq(2, 4, levels=4, dropout=1.0), latents(64, 2, 1)
    assert (quantizer.eval()(z).codes >= 0).all()
    quantizer.train()
    assert (quantizer(z, 4).codes >= 0).all()
    first, second = ((quantizer(z).codes >= 0).sum(dim=1) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("stop", [1, 7])
def test_resumed_training_equals_the_uninterrupted_one(stop):
    """Dropout, restarts and k-means; the global generator is left in another state on purpose."""

    def fresh():
        return residual_vq(4, 16, levels=3, dropout=0.5, kmeans_vectors=100, decay=0.8, restart_threshold=0.5).train()

    def drifting(step):  # data that moves on, so that codes die
        return latents(4, 4, 10, seed=step) + step

    whole, stopped, resumed = fresh(), fresh(), fresh()
    restarted = sum(whole(drifting(step)).usage.restarted for step in range(20))
    for step in range(stop):
        stopped(drifting(step))
    torch.manual_seed(1234)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for step in range(stop, 20):
        resumed(drifting(step))
    assert (restarted > 0).all()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_draws_nothing_from_the_global_generator():
    quantizer = residual_vq(4, 16, levels=3, dropout=0.5, kmeans_vectors=20).train()
    before = torch.get_rng_state()
    usage = quantizer(latents(4, 4, 10)).usage
    usage = quantizer(latents(4, 4, 10) + 50).usage
    assert torch.equal(torch.get_rng_state(), before) and usage is not None


def test_groups_take_turns_in_the_order_of_codebooks():
    first, second = random_stack(2), residual_vq(4, 8, 2, seed=9).eval()
    quantizer = GroupedResidualVectorQuantizer([first, second]).eval()
    z = latents(2, 10, 7)
    codes = quantizer.encode(z)
    assert quantizer.codebook_sizes == (32, 8, 32, 8)
    assert torch.equal(codes[:, 0::2], first.encode(z[:, :6]))
    assert torch.equal(codes[:, 1::2], second.encode(z[:, 6:]))
    third = quantizer(z, 3)
    assert torch.equal(third.codes[:, :3], codes[:, :3]) and (third.codes[:, 3] == -1).all()


def test_dropout_of_groups_keeps_a_prefix_of_codebooks():
    groups = [residual_vq(2, 4, 3, seed=seed) for seed in (1, 2)]
    quantizer = GroupedResidualVectorQuantizer(groups, dropout=1.0).train()
    used = quantizer(latents(200, 4, 1)).codes[..., 0] >= 0
    assert used[:, 0].all() and used.sum(dim=1).unique().tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(used, used.cummin(dim=1).values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResidualVectorQuantizer([]), "one or more quantizers"),
        (lambda: ResidualVectorQuantizer([VectorQuantizer(4, 8), VectorQuantizer(5, 8)]), "one kind and vector size"),
        (lambda: residual_vq(4, 8, 2, dropout=1.5), "dropout must lie in 0..1, got 1.5"),
        (lambda: residual_vq(4, 8, 2, kmeans_vectors=4), "0 or at least 8, got 4"),
        (lambda: GroupedResidualVectorQuantizer([residual_vq(4, 8, 2), residual_vq(4, 8, 3)]), "equally many levels"),
        (lambda: GroupedResidualVectorQuantizer([residual_vq(4, 8, 2, dropout=0.5)]), "give dropout to the grouped"),
    ],
    ids=["no levels", "mixed sizes", "dropout", "k-means", "uneven groups", "dropout of groups"],
)
def test_impossible_stacks_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
