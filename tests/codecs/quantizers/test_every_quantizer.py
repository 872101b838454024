"""What every quantizer keeps: one return type, codes of the latents alone, exact prefixes, honest state."""

import copy

import pytest
import torch
from torch import nn

from zoo.codecs.quantizers import (
    CascadedVectorQuantizer,
    FactorizedVectorQuantizer,
    GroupedResidualVectorQuantizer,
    GumbelQuantizer,
    IndexBackpropagationQuantizer,
    LearnedVectorQuantizer,
    LookupFreeQuantizer,
    MultiScaleVectorQuantizer,
    ProjectedQuantizer,
    ResidualScalarQuantizer,
    ResidualVectorQuantizer,
    ScalarQuantizer,
    SharedResidualVectorQuantizer,
    SimVectorQuantizer,
    SplitResidualVectorQuantizer,
    UnifiedVectorQuantizer,
    VectorQuantizer,
    masked_channel_residual_vq,
    residual_vq,
)

DIM = 12


def factorized(levels: int, dim: int = DIM, **options) -> list[FactorizedVectorQuantizer]:
    return [FactorizedVectorQuantizer(dim, 16, code_dim=4, **options) for _ in range(levels)]


def lookup_free(levels: int, bits: int) -> ResidualVectorQuantizer:
    return ResidualVectorQuantizer([LookupFreeQuantizer(bits, scale=0.5**level) for level in range(levels)])


def stack(build, levels: int = 3) -> ResidualVectorQuantizer:
    return ResidualVectorQuantizer([build(seed=level) for level in range(levels)])


def unified(levels: int) -> ResidualVectorQuantizer:
    """All levels on one table."""
    table = nn.Embedding(32, DIM)
    return ResidualVectorQuantizer([UnifiedVectorQuantizer(table) for _ in range(levels)])


KINDS = {
    "vector": lambda: VectorQuantizer(DIM, 32),
    "factorized": lambda: factorized(1)[0],
    "residual": lambda: residual_vq(DIM, 32, levels=4),
    "residual of factorized": lambda: ResidualVectorQuantizer(factorized(3)),
    "grouped": lambda: GroupedResidualVectorQuantizer([residual_vq(8, 32, 3, seed=1), residual_vq(4, 16, 3, seed=2)]),
    "grouped of factorized": lambda: GroupedResidualVectorQuantizer(
        [ResidualVectorQuantizer(factorized(2, dim=6)), ResidualVectorQuantizer(factorized(2, dim=6))]
    ),
    "vector, rotation": lambda: VectorQuantizer(DIM, 32, gradient="rotation"),
    "factorized, rotation": lambda: factorized(1, gradient="rotation")[0],
    "residual, rotation": lambda: residual_vq(DIM, 32, levels=4, gradient="rotation"),
    "scalar": lambda: ScalarQuantizer([8, 5, 3] * 4),
    "scalar, projected": lambda: ProjectedQuantizer(ScalarQuantizer([8, 5, 5]), DIM),
    "scalar, symmetric": lambda: ScalarQuantizer([2, 3, 4] * 4, symmetric=True),
    "residual scalar": lambda: ResidualScalarQuantizer([3, 4] * 6, depth=3),
    "residual scalar, projected": lambda: ProjectedQuantizer(ResidualScalarQuantizer([5, 5, 4], depth=3), DIM),
    "grouped scalar": lambda: GroupedResidualVectorQuantizer(
        [ResidualScalarQuantizer([3] * 8, depth=2), ResidualScalarQuantizer([5] * 4, depth=2)]
    ),
    "lookup-free": lambda: LookupFreeQuantizer(DIM),
    "lookup-free, projected": lambda: ProjectedQuantizer(LookupFreeQuantizer(6), DIM),
    "residual of lookup-free": lambda: lookup_free(3, DIM),
    "residual of lookup-free, projected": lambda: ProjectedQuantizer(lookup_free(3, bits=6), DIM),
    "grouped of lookup-free, projected": lambda: ProjectedQuantizer(
        GroupedResidualVectorQuantizer([lookup_free(2, bits=3), lookup_free(2, bits=5)]), DIM
    ),
    "index backpropagation": lambda: IndexBackpropagationQuantizer(DIM, 32),
    "residual of index backpropagation": lambda: ResidualVectorQuantizer(
        [IndexBackpropagationQuantizer(DIM, 32) for _ in range(3)]
    ),
    "simvq": lambda: SimVectorQuantizer(DIM, 32),
    "simvq, rotation": lambda: SimVectorQuantizer(DIM, 32, frozen_dim=5, bias=True, gradient="rotation"),
    "residual of simvq": lambda: stack(lambda seed: SimVectorQuantizer(DIM, 32, seed=seed)),
    "learned": lambda: LearnedVectorQuantizer(DIM, 32),
    "learned, on the sphere": lambda: LearnedVectorQuantizer(DIM, 32, sphere=True),
    "residual of learned": lambda: stack(lambda seed: LearnedVectorQuantizer(DIM, 32, gradient="rotation")),
    "residual, shared": lambda: SharedResidualVectorQuantizer(DIM, 32, levels=3),
    "gumbel": lambda: GumbelQuantizer(DIM, 32),
    "gumbel, soft": lambda: GumbelQuantizer(DIM, 32, straight_through=False),
    "residual of gumbel": lambda: stack(lambda seed: GumbelQuantizer(DIM, 32, seed=seed)),
    "masked channel": lambda: masked_channel_residual_vq(DIM, 32, levels=5),
    "split": lambda: SplitResidualVectorQuantizer(residual_vq(6, 16, 1, seed=1), residual_vq(8, 32, 3, seed=2), DIM),
    "split of others": lambda: SplitResidualVectorQuantizer(
        ScalarQuantizer([8, 5, 5]), ResidualVectorQuantizer(factorized(3, dim=8)), DIM
    ),
    "cascaded": lambda: CascadedVectorQuantizer(DIM, 32),
    "cascaded, rotation": lambda: CascadedVectorQuantizer(DIM, 32, gradient="rotation"),
    "residual of cascaded": lambda: stack(lambda seed: CascadedVectorQuantizer(DIM, 32, seed=seed)),
    "unified": lambda: UnifiedVectorQuantizer(nn.Embedding(50, DIM), first=10, size=32),
    "unified, projected": lambda: ProjectedQuantizer(UnifiedVectorQuantizer(nn.Embedding(32, 20)), DIM),
    "residual of unified": lambda: unified(levels=3),
}

# These look at the whole picture for each code, so that padding and cropping do change codes, as another picture would;
# and their codes lie on grids of their own. All else that is demanded here is demanded of them too.
WHOLE_PICTURE = {
    "multi-scale": lambda: MultiScaleVectorQuantizer(DIM, 32, scales=(1, 2, 3, 4)),
    "multi-scale, rotation": lambda: MultiScaleVectorQuantizer(DIM, 32, (1, 3, 4), phis=2, gradient="rotation"),
}

GRIDS = {"1-D": (9,), "2-D": (3, 5), "3-D": (2, 3, 4)}
CELLWISE_CASES = [
    pytest.param((build, grid), id=f"{kind}-{name}") for kind, build in KINDS.items() for name, grid in GRIDS.items()
]
CASES = CELLWISE_CASES + [pytest.param((build, (4, 4)), id=kind) for kind, build in WHOLE_PICTURE.items()]


def draws(quantizer) -> bool:
    """Whether `forward` in train mode draws codes at random, so that it is no function of the latents."""
    return any(isinstance(part, GumbelQuantizer) for part in quantizer.modules())


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def quantizer(case):
    build, grid = case
    torch.manual_seed(0)
    quantizer = build().train()
    for _ in range(3):  # codebooks that have seen data
        quantizer(torch.randn(16, DIM, *grid))
    return quantizer.eval()


@pytest.fixture
def z(case):
    _, grid = case
    return torch.randn(4, DIM, *grid, generator=torch.Generator().manual_seed(5))


def test_shapes_and_types_are_those_of_the_contract(quantizer, z):
    output = quantizer(z)
    sizes = quantizer.codebook_sizes
    assert output.z_q.shape == z.shape and output.z_q.dtype == z.dtype
    assert output.codes.shape[:2] == (4, len(sizes)) and output.codes.dtype == torch.int64
    assert output.loss.shape == () and output.loss.dtype == torch.float32
    for name in ("used", "perplexity", "restarted", "commitment"):
        figure = getattr(output.usage, name)
        assert figure.shape == (len(sizes),) and figure.dtype == torch.float32 and not figure.requires_grad
    for index, size in enumerate(sizes):
        assert 0 <= output.codes[:, index].min() and output.codes[:, index].max() < size


def test_decoding_the_codes_gives_the_quantized_latents_of_forward(quantizer, z):
    for n in range(1, len(quantizer.codebook_sizes) + 1):
        torch.testing.assert_close(quantizer.decode(quantizer.encode(z, n)), quantizer(z, n).z_q)


def test_the_first_codebooks_are_a_prefix(quantizer, z):
    whole = quantizer.encode(z)
    for n in range(1, len(quantizer.codebook_sizes) + 1):
        assert torch.equal(quantizer.encode(z, n), whole[:, :n])


@pytest.mark.parametrize("case", CELLWISE_CASES, indirect=True)
def test_codes_lie_on_the_grid_of_the_latents_and_do_not_depend_on_padding(quantizer, z):
    whole = quantizer.encode(z)
    assert whole.shape[2:] == z.shape[2:]
    padded = quantizer.encode(nn.functional.pad(z, (0, 7)))[..., : z.shape[-1]]
    assert torch.equal(padded, whole)


def test_codes_do_not_depend_on_batch_or_mode(quantizer, z):
    whole = quantizer.encode(z)
    alone = torch.cat([quantizer.encode(row[None]) for row in z])
    assert torch.equal(alone, whole)
    assert torch.equal(quantizer(z).codes, whole)
    quantizer.train()
    assert torch.equal(quantizer.encode(z), whole)
    if not draws(quantizer):
        assert torch.equal(quantizer(z).codes, whole)


@pytest.mark.parametrize("training", [False, True])
def test_n_of_each_row_is_honoured_alike_in_train_and_eval(quantizer, z, training):
    count = len(quantizer.codebook_sizes)
    n = torch.tensor([count, 1, 0, (count + 1) // 2])
    expected = [quantizer(row[None], int(number)) for row, number in zip(z, n, strict=True)]
    output = quantizer.train(training)(z, n)
    for row, number in enumerate(n.tolist()):
        assert (output.codes[row, :number] >= 0).all() and (output.codes[row, number:] == -1).all()
        if training and draws(quantizer):
            continue
        assert torch.equal(output.codes[row], expected[row].codes[0])
        torch.testing.assert_close(output.z_q[row], expected[row].z_q[0])
    assert (output.z_q[2] == 0).all()


def test_code_minus_one_decodes_as_nothing(quantizer, z):
    output = quantizer(z, torch.tensor([len(quantizer.codebook_sizes), 1, 0, 1]))
    torch.testing.assert_close(quantizer.decode(output.codes), output.z_q)


def test_every_parameter_and_the_latents_get_gradients(quantizer, z):
    z.requires_grad_()
    output = quantizer.train()(z)
    (output.loss + (output.z_q * torch.randn_like(z)).sum()).backward()
    for name, parameter in [("z", z), *quantizer.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_parameters_of_unused_levels_get_zero_gradients(quantizer, z):
    """None instead of zero would make distributed training wait for ever."""
    output = quantizer.train()(z.requires_grad_(), 1)
    (output.loss + output.z_q.sum()).backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_state_dict_round_trip_keeps_codes_and_latents(quantizer, z, tmp_path):
    torch.save(quantizer.state_dict(), tmp_path / "state.pt")
    fresh = copy.deepcopy(quantizer)
    for value in fresh.state_dict().values():
        value.zero_()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh.encode(z), quantizer.encode(z))
    assert torch.equal(fresh(z).z_q, quantizer(z).z_q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_and_stays_close(quantizer, z, dtype):
    exact = quantizer(z.to(dtype).float())
    mixed = quantizer(z.to(dtype))
    assert mixed.z_q.dtype == dtype
    assert torch.equal(mixed.codes, exact.codes)  # the search is in float32
    half = copy.deepcopy(quantizer).to(dtype)(z.to(dtype))
    assert half.z_q.dtype == dtype
    # Codewords rounded to 8 bits (bfloat16) move few of the decisions.
    assert (half.codes[:, 0] == exact.codes[:, 0]).float().mean() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, z: q(z[:, :-1]), r"expected latents of shape \[batch, 12, \*grid\], got \[4, 11"),
        (lambda q, z: q(z, 99), "n must lie in 0.."),
        (lambda q, z: q(z, torch.tensor([1, 1])), "one number for each of 4 rows"),
        (lambda q, z: q.encode(z, 0), "n must lie in 1.."),
        (lambda q, z: q.encode(z, 99), "n must lie in 1.."),
        (lambda q, z: q.decode(torch.zeros(1, 99, 3, dtype=torch.int64)), "expected codes of 1.."),
    ],
    ids=["wrong dim", "n too large", "n of wrong length", "encode none", "encode too many", "too many codebooks"],
)
def test_wrong_input_is_named(quantizer, z, call, message):
    with pytest.raises(ValueError, match=message):
        call(quantizer, z)
