"""Pictures are quantized with the very vectors that a text model reads."""

import pytest
import torch
from torch import nn

from zoo.codecs.quantizers import ResidualVectorQuantizer, UnifiedVectorQuantizer

DIM, TOKENS, FIRST, SIZE = 6, 50, 10, 20


def latents() -> torch.Tensor:
    return torch.randn(2, DIM, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(TOKENS, DIM)


def test_a_text_model_reads_a_code_as_the_vector_that_it_decodes_to(table):
    quantizer = UnifiedVectorQuantizer(table, FIRST, SIZE)
    codes = quantizer.encode(latents())
    assert torch.equal(table(FIRST + codes[:, 0]).movedim(-1, 1), quantizer.decode(codes))


def test_the_code_is_that_of_the_nearest_token_of_the_slice(table):
    quantizer, z = UnifiedVectorQuantizer(table, FIRST, SIZE), latents()
    distances = torch.cdist(z.movedim(1, -1).reshape(-1, DIM), table.weight[FIRST : FIRST + SIZE])
    assert quantizer.encode(z).flatten().tolist() == distances.argmin(dim=1).tolist()
    assert UnifiedVectorQuantizer(table).codebook_sizes == (TOKENS,)
    assert UnifiedVectorQuantizer(table, FIRST).codebook_sizes == (TOKENS - FIRST,)


def test_what_the_text_model_learns_the_quantizer_knows(table):
    quantizer, z = UnifiedVectorQuantizer(table, FIRST, SIZE), latents()
    before = quantizer.encode(z)
    optimizer = torch.optim.SGD(table.parameters(), lr=5.0)
    table(torch.arange(FIRST, FIRST + SIZE)).square().sum().mul(-1 / SIZE).backward()
    optimizer.step()
    assert not torch.equal(quantizer.encode(z), before)
    assert torch.equal(quantizer.decode(before), table(FIRST + before[:, 0]).movedim(-1, 1))


def test_pictures_move_the_tokens_of_the_slice_alone_and_only_if_they_may(table):
    quantizer = UnifiedVectorQuantizer(table, FIRST, SIZE)
    quantizer(latents()).loss.backward()
    moved = table.weight.grad.abs().sum(dim=1) > 0
    assert moved[FIRST : FIRST + SIZE].any() and not moved[:FIRST].any() and not moved[FIRST + SIZE :].any()
    table.weight.grad = None
    output = UnifiedVectorQuantizer(table, FIRST, SIZE, codebook_weight=0.0)(latents().requires_grad_())
    (output.loss + output.z_q.sum()).backward()
    assert not table.weight.grad.any()


def test_levels_of_a_stack_and_a_text_model_hold_one_table(table):
    stack = ResidualVectorQuantizer([UnifiedVectorQuantizer(table, FIRST, SIZE) for _ in range(3)])
    model = nn.ModuleDict({"text": table, "quantizer": stack})
    assert sum(parameter.numel() for parameter in model.parameters()) == TOKENS * DIM


@pytest.mark.parametrize(("first", "size"), [(45, 6), (-1, 5), (0, 0), (50, None)])
def test_slices_outside_the_table_are_refused(table, first, size):
    with pytest.raises(ValueError, match="among the table's 50 tokens"):
        UnifiedVectorQuantizer(table, first, size)
