"""Layers of picture networks compute what their descriptions say."""

import torch

from zoo.codecs.layers.image import AttentionBlock, Downsample


def cells(height: int, width: int, channels: int = 6) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_downsampling_looks_right_and_down():
    layer, x = Downsample(6).double(), cells(8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, :, 1, 2].sum(), x)
    seen = gradient[0].abs().sum(dim=0).nonzero()
    assert seen.amin(dim=0).tolist() == [2, 4] and seen.amax(dim=0).tolist() == [4, 6]


def test_attention_is_a_mean_over_all_cells_weighted_by_likeness():
    torch.manual_seed(0)
    block, x = AttentionBlock(6, groups=2).double(), cells(3, 4)
    h = block.norm(x).flatten(2)
    q, k, v = (
        torch.einsum("oi,bic->boc", layer.weight[..., 0, 0], h) + layer.bias[:, None]
        for layer in (block.q, block.k, block.v)
    )
    shares = (torch.einsum("bci,bcj->bij", q, k) / 6**0.5).softmax(dim=2)
    mean = torch.einsum("bij,bcj->bci", shares, v).view_as(x)
    torch.testing.assert_close(block(x), x + block.proj_out(mean))
