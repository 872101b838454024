"""The moving-average codebook: what it learns, what it restarts, and the figures it reports."""

import pytest
import torch

from zoo.codecs.quantizers import VectorQuantizer


def clusters(source: torch.Generator, count: int = 32, dim: int = 16):
    """A sampler of `[1, dim, vectors]` from `count` narrow, well separated clusters."""
    centres = torch.randn(count, dim, generator=source)

    def sample(vectors: int) -> torch.Tensor:
        chosen = centres[torch.randint(count, (vectors,), generator=source)]
        return (chosen + 0.1 * torch.randn(vectors, dim, generator=source)).T[None]

    return sample


def known(codewords: list[list[float]], **options) -> VectorQuantizer:
    """A quantizer with these codewords, each with the weight of one vector."""
    table = torch.tensor(codewords)
    quantizer = VectorQuantizer(table.shape[1], len(table), **options)
    quantizer.start_from(table, torch.ones(len(table)))
    return quantizer


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("age", ["fresh", "trained"])
def test_dead_codes_come_back_to_life_and_stay(seed, age):
    """64 codes of which 2 start near 32 clusters; the others lie where no vector will ever be."""
    sample = clusters(torch.Generator().manual_seed(seed))
    quantizer = VectorQuantizer(16, 64, decay=0.99, seed=seed).train()
    codewords = torch.full((64, 16), 1000.0)
    codewords[:2] = sample(2)[0].T
    # Counts of a codebook that was trained on such batches: 512 vectors on 64 codes.
    quantizer.start_from(codewords, torch.full((64,), 0.0 if age == "fresh" else 8.0))
    restarted = sum(quantizer(sample(512)).usage.restarted.item() for _ in range(500))
    in_use = quantizer.encode(sample(8192)).unique().numel()
    assert restarted >= 62
    assert in_use >= 60


def test_a_restarted_code_lies_on_a_vector_of_the_batch_after_the_same_forward():
    quantizer = known([[0.0, 0.0], [100.0, 100.0]])
    quantizer.counts[1] = 0
    z = torch.tensor([[[3.0, 4.0], [1.0, 2.0]]])  # vectors (3, 1) and (4, 2)
    assert quantizer.train()(z).usage.restarted.tolist() == [1]
    assert quantizer.embedding[1].tolist() in [[3.0, 1.0], [4.0, 2.0]]
    restarted = quantizer.embedding[1].clone()
    assert quantizer.counts[1] == quantizer.counts[0] / 2  # the mean of both when one was dead
    quantizer(restarted[None, :, None])  # it weighs as much as other codes, so one vector on its spot leaves it there
    torch.testing.assert_close(quantizer.embedding[1], restarted)


def test_codes_never_restart_at_threshold_zero():
    quantizer = known([[0.0], [100.0]], restart_threshold=0.0).train()
    for _ in range(2000):  # .99 ** 2000 = 2e-9 of the weight is left
        quantizer(torch.ones(1, 1, 4))
    assert quantizer.embedding[1].item() == pytest.approx(100, abs=1e-3)


def test_codebook_is_the_exponential_moving_average_of_its_vectors():
    quantizer = known([[0.0], [10.0]], decay=0.9).train()
    quantizer(torch.tensor([[[1.0, 1.0, 9.0]]]))
    # Code 0: weight .9 * 1 + .1 * 2, sum .9 * 0 + .1 * (1 + 1); code 1: weight .9 + .1, sum .9 * 10 + .1 * 9.
    assert quantizer.embedding.flatten().tolist() == pytest.approx([0.2 / 1.1, 9.9])


def test_eval_mode_changes_nothing():
    quantizer = VectorQuantizer(4, 8).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 4, 50))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_usage_tells_the_truth_about_known_data():
    quantizer = known([[0.0], [10.0], [20.0], [30.0]]).eval()
    quantizer.counts.copy_(torch.tensor([5.0, 5.0, 5.0, 0.0]))
    usage = quantizer(torch.tensor([[[0.0, 1.0, 10.0, 12.0]]])).usage
    assert usage.used.tolist() == [0.75]
    assert usage.perplexity.tolist() == pytest.approx([2])  # two codes, equally often
    assert usage.commitment.tolist() == [(0 + 1 + 0 + 4) / 4]
    assert usage.restarted.tolist() == [0]


def test_ties_go_to_the_lowest_code():
    quantizer = known([[1.0], [-1.0], [1.0]])
    assert quantizer.encode(torch.tensor([[[0.0, 2.0, -2.0]]])).tolist() == [[[0, 0, 1]]]


def test_codes_do_not_depend_on_the_slices_that_bound_memory(monkeypatch):
    quantizer, z = VectorQuantizer(8, 32), torch.randn(2, 8, 500)
    whole = quantizer.encode(z)
    monkeypatch.setattr("zoo.codecs.quantizers.kmeans.CACHED", 32 * 7)  # 7 vectors at a time
    assert torch.equal(quantizer.encode(z), whole)


def test_loss_is_the_mean_squared_distance_and_draws_latents_to_codewords():
    quantizer = known([[0.0], [10.0]]).eval()
    z = torch.tensor([[[1.0, 8.0]]], requires_grad=True)
    loss = quantizer(z).loss
    loss.backward()
    assert loss.item() == (1 + 4) / 2
    assert z.grad.tolist() == [[[1.0, -2.0]]]  # 2 (z - e) / 2 vectors


def test_decoder_gradient_goes_straight_through():
    z = torch.randn(2, 4, 5, requires_grad=True)
    weights = torch.randn(2, 4, 5)
    (VectorQuantizer(4, 8)(z).z_q * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_codebook_stays_float32_under_autocast():
    quantizer = VectorQuantizer(8, 16).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(torch.randn(2, 8, 50, dtype=torch.bfloat16))
    assert quantizer.embedding.dtype == quantizer.counts.dtype == output.loss.dtype == torch.float32
    assert output.z_q.dtype == torch.bfloat16
    # Codewords are means of bfloat16 vectors, most of which bfloat16 itself could not hold.
    assert (quantizer.embedding != quantizer.embedding.bfloat16()).float().mean() > 0.5


def test_too_few_vectors_for_kmeans_are_refused():
    with pytest.raises(ValueError, match="at least the 64 codes, got 10"):
        VectorQuantizer(8, 64, kmeans_vectors=10)
