"""Finite scalar quantization: the grids, the order of codes, gradients, and equality with vector-quantize-pytorch."""

import pytest
import torch
from vector_quantize_pytorch import FSQ, ResidualFSQ

from zoo.codecs.quantizers import ProjectedQuantizer, ResidualScalarQuantizer, ScalarQuantizer


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def copy_projections(ours: ProjectedQuantizer, theirs: torch.nn.Module) -> None:
    for name in ("project_in", "project_out"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())


def test_the_grid_of_the_paper_is_lopsided_where_levels_are_even():
    quantizer = ScalarQuantizer([4, 3])
    values = quantizer.decode(torch.arange(12).view(1, 1, 12))[0]
    assert values[0].tolist() == [-1, -0.5, 0, 0.5] * 3  # the first dimension is the lowest digit
    assert values[1].tolist() == [-1] * 4 + [0] * 4 + [1] * 4


def test_the_symmetric_grid_reaches_as_far_below_zero_as_above():
    values = ScalarQuantizer([4, 2], symmetric=True).decode(torch.arange(8).view(1, 1, 8))[0]
    torch.testing.assert_close(values[0], torch.tensor([-1, -1 / 3, 1 / 3, 1]).repeat(2))
    assert values[1].tolist() == [-1] * 4 + [1] * 4


def test_a_deeper_grid_is_as_much_narrower_as_it_has_levels():
    wide, narrow = ScalarQuantizer([5, 3], symmetric=True), ScalarQuantizer([5, 3], symmetric=True, depth=2)
    codes = torch.arange(15).view(1, 1, 15)
    torch.testing.assert_close(narrow.decode(codes), wide.decode(codes) / torch.tensor([[25.0], [9.0]]))


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_code_is_the_code_of_its_own_codeword_and_of_no_other(symmetric):
    """Codewords of the paper's grid lie within its bound, where tanh(atanh(x)) finds them again."""
    quantizer = ScalarQuantizer([8, 5, 3], symmetric=symmetric)
    codes = torch.arange(120).view(1, 1, 120)
    if symmetric:
        inputs = quantizer.decode(codes)
    else:
        levels = torch.tensor([8.0, 5.0, 3.0])[:, None]
        offset, reach = torch.tensor([0.5, 0.0, 0.0])[:, None], (levels - 1) * 1.001 / 2
        inputs = torch.atanh((quantizer.decode(codes)[0] * (levels // 2) + offset) / reach)
        inputs = (inputs - torch.atanh(offset / reach))[None]
    assert torch.equal(quantizer.encode(inputs), codes)


@pytest.mark.parametrize(("levels", "dim"), [([8, 5, 5], 3), ([8, 5, 5, 5], 16), ([4] * 8, 32)])
def test_codes_latents_and_gradients_equal_vector_quantize_pytorch(levels, dim):
    torch.manual_seed(0)
    theirs = FSQ(levels, dim=dim)
    quantizer = ScalarQuantizer(levels)
    if dim != len(levels):
        quantizer = ProjectedQuantizer(quantizer, dim)
        copy_projections(quantizer, theirs)
    z, mine = (latents(3, 200, dim).requires_grad_() for _ in range(2))
    expected, codes = theirs(z)
    output = quantizer(mine.movedim(2, 1))
    assert torch.equal(output.codes[:, 0], codes.long()) and codes.unique().numel() > 60
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (output.z_q.movedim(1, 2) * weights).sum().backward()
    torch.testing.assert_close(mine.grad, z.grad)
    assert output.loss == 0


@pytest.mark.parametrize(("levels", "dim"), [([8, 5, 5], 3), ([5, 4, 3, 2], 16)])
def test_residual_codes_latents_and_gradients_equal_vector_quantize_pytorch(levels, dim):
    torch.manual_seed(0)
    theirs = ResidualFSQ(levels=levels, num_quantizers=4, dim=dim).eval()
    quantizer = ResidualScalarQuantizer(levels, depth=4)
    if dim != len(levels):
        quantizer = ProjectedQuantizer(quantizer, dim)
        copy_projections(quantizer, theirs)
    z, mine = (latents(3, 200, dim).requires_grad_() for _ in range(2))
    expected, codes = theirs(z)
    output = quantizer(mine.movedim(2, 1))
    assert torch.equal(output.codes.movedim(1, 2), codes.long())
    assert all(codes[..., level].unique().numel() > 60 for level in range(4))
    torch.testing.assert_close(output.z_q.movedim(1, 2), expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (output.z_q.movedim(1, 2) * weights).sum().backward()
    torch.testing.assert_close(mine.grad, z.grad)


def test_each_residual_grid_gains_what_its_levels_promise():
    """The error of uniform latents falls by the number of levels with each grid."""
    quantizer = ResidualScalarQuantizer([5, 5], depth=3)
    squeezed = torch.rand(1, 2, 4000, generator=torch.Generator().manual_seed(0)) * 2.49 - 1.245
    z = 1.25 * torch.atanh(squeezed / 1.25)  # five values of half a step on either side: as far as -1.25 and 1.25
    errors = [(quantizer.decode(quantizer.encode(z, n)) - squeezed).square().mean().sqrt() for n in (1, 2, 3)]
    # A step of the first grid is 1/2, and errors are uniform: a deviation of 1/2 / sqrt(12).
    assert errors[0].item() == pytest.approx(0.5 / 12**0.5, rel=0.03)
    assert [before / after for before, after in zip(errors, errors[1:], strict=False)] == pytest.approx([5, 5], rel=0.1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ScalarQuantizer([]), "one or more numbers from 3, got"),
        (lambda: ScalarQuantizer([8, 2]), r"plain grid must be one or more numbers from 3, got \[8, 2\]"),
        (lambda: ScalarQuantizer([2, 1], symmetric=True), "symmetric grid must be one or more numbers from 2"),
        (lambda: ScalarQuantizer([8] * 21), "must fit into 62 bits"),
    ],
    ids=["none", "two", "one", "too many"],
)
def test_impossible_grids_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_cells_without_codes_decode_to_zeros_in_spite_of_the_bias():
    quantizer = ProjectedQuantizer(ScalarQuantizer([5, 5]), 6)
    codes = torch.tensor([[[3, -1, 7]]])
    torch.nn.init.ones_(quantizer.project_out.bias)
    decoded = quantizer.decode(codes)[0]
    assert (decoded[:, 1] == 0).all() and (decoded[:, [0, 2]].abs().sum(dim=0) > 1).all()
