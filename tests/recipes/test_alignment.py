"""Frames find the bytes that they say: sums and best ways by enumeration, and a toy language that is learnt."""

from itertools import combinations

import pytest
import torch

from zoo.recipes.alignment import BLANK, NEVER, Aligner, even_prior, forward_sum, likeliest

FRAMES, IDS = torch.tensor([6, 4]), torch.tensor([3, 2])


def random_logits():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 3)
    logits[1, :, 2] = NEVER
    return logits


def ways(frames: int, ids: int):
    """All ways to give each id one frame or more, in order."""
    for cuts in combinations(range(1, frames), ids - 1):
        yield [sum(frame >= cut for cut in cuts) for frame in range(frames)]


def test_the_likeliest_way_is_the_best_of_all():
    logits = random_logits()
    found = likeliest(logits, FRAMES, IDS)
    for row, (frames, ids) in enumerate(zip(FRAMES.tolist(), IDS.tolist(), strict=True)):
        law = logits[row].log_softmax(-1)
        best = max(ways(frames, ids), key=lambda way: sum(float(law[frame, k]) for frame, k in enumerate(way)))
        assert found[row].tolist() == [best.count(k) for k in range(3)]


def test_the_sum_is_over_all_ways_with_frames_of_no_byte_between():
    logits = random_logits()
    total = 0.0
    for row, (frames, ids) in enumerate(zip(FRAMES.tolist(), IDS.tolist(), strict=True)):
        law = torch.cat((torch.full((6, 1), BLANK), logits[row]), 1).softmax(-1)
        chance = sum(
            float(torch.stack([law[frame, state] for frame, state in enumerate(path)]).prod())
            for path in torch.cartesian_prod(*[torch.arange(ids + 1)] * frames).tolist()
            if said(path) == list(range(1, ids + 1))
        )
        total -= torch.tensor(chance).log().item() / ids
    assert float(forward_sum(logits, FRAMES, IDS)) == pytest.approx(total / 2, rel=1e-4)


def said(path):
    """Ids of a path, repetitions and blanks left out."""
    return [state for before, state in zip([0, *path], path, strict=False) if state and state != before]


def test_the_prior_is_a_law_over_the_bytes_of_each_frame_along_the_diagonal():
    law = even_prior(FRAMES, IDS, 1.0).exp()
    torch.testing.assert_close(law[0].sum(-1), torch.ones(6))
    assert law[0].argmax(-1).tolist() == sorted(law[0].argmax(-1).tolist()) and law[0, 0, 0] > 0.5 < law[0, 5, 2]


def test_more_bytes_than_frames_are_refused():
    with pytest.raises(ValueError, match="row 1: 3 bytes cannot have a frame each of 2"):
        likeliest(torch.zeros(2, 3, 3), torch.tensor([3, 2]), torch.tensor([3, 3]))


def toy_batch(seed: int):
    """Each of 8 letters is said by its own code, for as many frames as its number says."""
    torch.manual_seed(seed)
    text = torch.randint(0, 8, (16, 6))
    lengths = 1 + text % 4
    frames = lengths.sum(1)
    codes = torch.full((16, 1, int(frames.max())), -1)
    for row in range(16):
        codes[row, 0, : frames[row]] = text[row].repeat_interleave(lengths[row])
    return text, codes, frames, lengths


def test_a_language_of_uneven_letters_is_aligned():
    torch.manual_seed(0)
    model = Aligner((8,), width=32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(400):
        text, codes, frames, lengths = toy_batch(step)
        ids = torch.full((16,), 6)
        loss = forward_sum(model(text, codes, even_prior(frames, ids)), frames, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    text, codes, frames, lengths = toy_batch(10_000)
    found = likeliest(model(text, codes), frames, torch.full((16,), 6))
    repeated = (text[:, 1:] == text[:, :-1]).any(1)  # where one letter comes twice, nobody can tell where it changes
    assert (found.sum(1) == frames).all() and (~repeated).sum() > 4
    even = (frames[:, None] / 6 - lengths).abs()[~repeated].mean()
    assert (found - lengths).abs()[~repeated].float().mean() < 0.5 * even
