"""The multi-scale quantizer does what its paper's algorithm says, and its codes can be taken apart by scale."""

import math

import numpy as np
import pytest
import torch

from zoo.codecs.quantizers import MultiScaleVectorQuantizer

PUBLISHED = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def area(cells: int, parts: int) -> np.ndarray:
    """`[part, cell]`: the mean of all cells that a part of the axis touches."""
    matrix = np.zeros((parts, cells))
    for part in range(parts):
        touched = range(math.floor(part * cells / parts), math.ceil((part + 1) * cells / parts))
        matrix[part, touched] = 1 / len(touched)
    return matrix


def bicubic(parts: int, cells: int) -> np.ndarray:
    """`[cell, part]`: Keys' kernel of slope -3/4 at the cells' centres, the outermost parts repeated outwards."""

    def kernel(t: float, slope: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (slope + 2) * t**3 - (slope + 3) * t**2 + 1
        return slope * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    matrix = np.zeros((cells, parts))
    for cell in range(cells):
        centre = (cell + 0.5) * parts / cells - 0.5
        for part in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[cell, min(max(part, 0), parts - 1)] += kernel(centre - part)
    return matrix


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3 over `[dim, row, column]`, with zeros around it."""
    rows, columns = x.shape[1:]
    around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    shifts = [(y, x) for y in range(3) for x in range(3)]
    return bias[:, None, None] + sum(
        np.einsum("oi,iyx->oyx", weight[:, :, y, x], around[:, y : y + rows, x : x + columns]) for y, x in shifts
    )


def reference(quantizer: MultiScaleVectorQuantizer, z: torch.Tensor, shapes: list[tuple[int, int]]):
    """Codes of each scale of one picture `[dim, row, column]` and the sums after each, in float64, step by step."""
    names = {name: value.detach().double().numpy() for name, value in quantizer.state_dict().items()}
    codebook, rest = names["embedding.weight"], z.double().numpy()
    total, maps, sums = np.zeros_like(rest), [], []
    ticks = [1 / 12 + index * 10 / 36 for index in range(4)]
    for k, (rows, columns) in enumerate(shapes):
        small = np.einsum("py,qx,dyx->dpq", area(z.shape[1], rows), area(z.shape[2], columns), rest)
        distances = np.square(small[None] - codebook[:, :, None, None]).sum(axis=1)
        codes = distances.argmin(axis=0)
        large = np.einsum("yp,xq,pqd->dyx", bicubic(rows, z.shape[1]), bicubic(columns, z.shape[2]), codebook[codes])
        phi = max(range(4), key=lambda index: (-round(abs(ticks[index] - k / (len(shapes) - 1)), 9), index))
        weight, bias = (names[f"quant_resi.qresi_ls.{phi}.{part}"] for part in ("weight", "bias"))
        part = 0.5 * large + 0.5 * convolve(large, weight, bias)
        total, rest = total + part, rest - part
        maps.append(codes)
        sums.append(total)
    return maps, sums


def quantizer_of(scales=(1, 2, 3, 5), dim: int = 6, size: int = 32, **options) -> MultiScaleVectorQuantizer:
    torch.manual_seed(3)
    return MultiScaleVectorQuantizer(dim, size, scales, **options)


def latents(height: int, width: int, dim: int = 6, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, dim, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("scales", "grid", "shapes"),
    [
        (PUBLISHED, (16, 16), [(s, s) for s in PUBLISHED]),
        ((1, 2, 3, 5), (5, 5), [(1, 1), (2, 2), (3, 3), (5, 5)]),
        ((1, 2, 3, 5), (10, 7), [(2, 1), (4, 3), (6, 4), (10, 7)]),
        ((1, 2, 3, 5), (2, 9), [(1, 2), (1, 4), (1, 5), (2, 9)]),
    ],
    ids=["published", "square", "larger", "flat"],
)
def test_codes_and_sums_are_those_of_the_papers_algorithm(scales, grid, shapes):
    quantizer, z = quantizer_of(scales), latents(*grid)
    output = quantizer(z)
    maps = quantizer.split(output.codes, grid)
    for row in range(len(z)):
        expected, sums = reference(quantizer, z[row], shapes)
        for scale, codes in enumerate(expected):
            assert maps[scale][row].tolist() == codes.tolist()
            some = quantizer.decode(quantizer.join(maps[: scale + 1]), grid)[row]
            torch.testing.assert_close(some.double(), torch.from_numpy(sums[scale]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.z_q[row].double(), torch.from_numpy(sums[-1]), atol=1e-5, rtol=1e-5)


def test_loss_is_the_mean_over_scales_of_what_the_sums_leave():
    quantizer, z = quantizer_of(commitment_weight=0.25, codebook_weight=2.0), latents(5, 5)
    sums = [quantizer.decode(quantizer.encode(z, scales=scales)) for scales in (1, 2, 3, 4)]
    expected = torch.stack([(part - z).square().mean() for part in sums])
    output = quantizer(z)
    torch.testing.assert_close(output.loss, 2.25 * expected.mean())
    torch.testing.assert_close(output.usage.commitment, expected[-1:])


def test_the_decoders_gradient_goes_to_the_latents_alone_straight_through_or_rotated():
    z, weights = latents(5, 5), latents(5, 5).flip(0)
    plain, rotating = quantizer_of(), quantizer_of(gradient="rotation")
    gradients = []
    for quantizer in (plain, rotating):
        outputs = quantizer(z.requires_grad_()).z_q
        latent, *others = torch.autograd.grad(
            (outputs * weights).sum(), [z, *quantizer.parameters()], allow_unused=True, materialize_grads=True
        )
        assert all((other == 0).all() for other in others)
        gradients.append(latent)
    torch.testing.assert_close(gradients[0], weights)
    # A rotation and a stretch by the ratio of lengths: the length of a cell's gradient changes by that ratio.
    stretch = outputs.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(gradients[1].norm(dim=1), stretch * weights.norm(dim=1))


def test_gradient_steps_make_each_scale_gain_on_the_one_before():
    quantizer = quantizer_of()
    z = latents(5, 5, batch=4) + latents(1, 1, batch=4)  # pictures with a mean for the first scale to find
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(z).loss.backward()
        optimizer.step()
    sums = [torch.zeros_like(z), *(quantizer.decode(quantizer.encode(z, scales=k)) for k in (1, 2, 3, 4))]
    errors = [(part - z).square().mean().item() for part in sums]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.2 * errors[0], errors


def test_codes_are_680_for_the_published_scales_in_the_order_of_the_scales():
    quantizer, z = quantizer_of(PUBLISHED), latents(16, 16)
    codes = quantizer.encode(z)
    assert codes.shape == (2, 1, 680)
    maps = quantizer.split(codes)
    assert [tuple(m.shape) for m in maps] == [(2, s, s) for s in PUBLISHED]
    assert maps[1][0].tolist() == [codes[0, 0, 1:3].tolist(), codes[0, 0, 3:5].tolist()]  # row by row
    assert torch.equal(quantizer.join(maps), codes)


def test_the_first_scales_are_a_picture_of_their_own():
    quantizer, z = quantizer_of(), latents(5, 5)
    whole = quantizer.split(quantizer.encode(z))
    for scales in (1, 2, 3):
        codes = quantizer.encode(z, scales=scales)
        used = sum(m[0].numel() for m in whole[:scales])
        assert torch.equal(codes[..., :used], quantizer.join(whole[:scales])) and (codes[..., used:] == -1).all()
        torch.testing.assert_close(quantizer.decode(codes), quantizer.decode(codes[..., :used]))


def test_rows_of_a_batch_may_end_at_different_scales():
    quantizer, z = quantizer_of(), latents(5, 5)
    codes = torch.cat([quantizer.encode(z[:1], scales=2), quantizer.encode(z[1:])])
    alone = torch.cat([quantizer.decode(row[None]) for row in codes])
    torch.testing.assert_close(quantizer.decode(codes), alone)


@pytest.mark.parametrize(("scales", "phis"), [(10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (4, [0, 1, 2, 3]), (1, [0])])
def test_each_scale_takes_the_nearest_of_the_shared_convolutions(scales, phis):
    """Convolutions that add 0, 1, 2, 3 times their weight, under codewords of zeros, say which one was used.

    Scales 2 and 7 of ten lie between two: trained weights use the finer.
    """
    quantizer = quantizer_of(PUBLISHED[:scales], dim=1, size=1)
    with torch.no_grad():
        quantizer.embedding.weight.zero_()
        for index, phi in enumerate(quantizer.quant_resi.qresi_ls):
            phi.bias.fill_(2 * index)
    codes = quantizer.encode(latents(PUBLISHED[scales - 1], PUBLISHED[scales - 1], dim=1, batch=1))
    maps = quantizer.split(codes)
    sums = [0, *(quantizer.decode(quantizer.join(maps[: k + 1])).mean().item() for k in range(scales))]
    assert [round(late - early) for early, late in zip(sums[:-1], sums[1:], strict=True)] == phis


def test_weights_are_named_as_published():
    names = {"embedding.weight": (32, 6)}
    for phi in range(4):
        names |= {f"quant_resi.qresi_ls.{phi}.weight": (6, 6, 3, 3), f"quant_resi.qresi_ls.{phi}.bias": (6,)}
    assert {name: tuple(value.shape) for name, value in quantizer_of().state_dict().items()} == names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.decode(torch.zeros(1, 1, 40, dtype=torch.int64)), r"one of \[1, 5, 14, 39\], got \[1, 1, 40\]"),
        (lambda q: q.decode(q.encode(latents(5, 9))), "give the height and width of the latents"),
        (lambda q: q.encode(latents(5, 5), scales=5), "scales must lie in 1..4, got 5"),
        (lambda q: q.encode(latents(5, 5)[..., 0]), "a grid of two axes"),
        (lambda q: quantizer_of((2, 2, 3)), "growing numbers from 1, got .2, 2, 3"),
        (lambda q: quantizer_of(phis=0), "phis must be at least 1, got 0"),
    ],
    ids=["part of a scale", "grid unknown", "too many scales", "one axis", "scales that do not grow", "no phi"],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(quantizer_of())
