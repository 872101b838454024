"""Finds out when each byte of the text of token sets of speech is said: `python -m zoo.recipes.align SET...`.

    python -m zoo.recipes.align data/spoken-tokens/train data/spoken-tokens/valid

learns from all sets together which frames say which byte (`zoo.recipes.alignment`), a minute for some hours of speech
on one core, and writes `SET/durations.parquet` for each. Timed decoders (`ConditionConfig.timed`) need them to train.
Items without text, of more bytes than frames, or longer than --longest get none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from zoo.codecs.errors import UserError
from zoo.decoders.conditioning import text_ids
from zoo.recipes.alignment import Aligner, even_prior, forward_sum, likeliest
from zoo.recipes.data.token_sets import TokenSets
from zoo.token_sets import TokenSet

RATE, BETAS, CLIP = 3e-3, (0.9, 0.98), 5.0
CODEBOOKS = 2  # what is said is in the first ones
CELLS = 3072  # frames in a batch


def learn(sets: Sequence[str], steps: int, longest: int, seed: int = 0) -> Aligner:
    """Train an aligner on some token sets.

    Raises:
        UserError: They are no token sets of one codec, or have no text.
    """
    data = TokenSets(
        list(sets), list(sets), codebooks=CODEBOOKS, batch_cells=CELLS, longest=longest, text="bytes", seed=seed
    )
    data.setup("fit")
    torch.manual_seed(seed)
    aligner = Aligner(data.codebook_sizes)
    optimizer = torch.optim.Adam(aligner.parameters(), RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    batches = islice(data.train_stream(0, 1), steps)
    for batch in track(batches, "learn which frames say which byte", steps, console=Console(stderr=True)):
        frames, ids = batch["lengths"], (batch["text"] >= 0).sum(1)
        fit = (ids > 0) & (ids <= frames)
        if not fit.any():
            continue
        frames, ids = frames[fit], ids[fit]
        text, codes = batch["text"][fit, : ids.max()], batch["codes"][fit, :, : frames.max()]
        loss = forward_sum(aligner(text, codes, even_prior(frames, ids)), frames, ids)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(aligner.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return aligner.eval()


@torch.no_grad()
def align(aligner: Aligner, given: TokenSet, longest: int) -> list[Int[ndarray, "byte"] | None]:
    """Frames of each byte of each row's text; None for rows that cannot be aligned."""
    codes = given.codes()
    texts = [(text or "").encode() for text in given.table(["text"])["text"].to_pylist()]
    lengths = codes.shapes[:, 0]
    found: list[Int[ndarray, "byte"] | None] = [None] * len(texts)
    fitting = [row for row, text in enumerate(texts) if 0 < len(text) <= lengths[row] <= longest]
    fitting.sort(key=lambda row: lengths[row])
    chunks = list(chunked(fitting, 32))
    for rows in track(chunks, f"align {given.folder}", console=Console(stderr=True)):
        heard = [torch.from_numpy(codes[row][:CODEBOOKS].astype(np.int64)).mT for row in rows]
        text = text_ids([texts[row].decode() for row in rows])
        frames, ids = torch.from_numpy(lengths[rows].astype(np.int64)), (text >= 0).sum(1)
        logits = aligner(text, padded(heard), even_prior(frames, ids))
        for row, count, durations in zip(rows, ids.tolist(), likeliest(logits, frames, ids), strict=True):
            found[row] = durations[:count].numpy()
    return found


def padded(codes: Sequence[Int[Tensor, "T Q"]]) -> Int[Tensor, "R Q T"]:
    """Codes of several rows; -1 behind the end of each."""
    return pad_sequence(list(codes), batch_first=True, padding_value=-1).mT


def chunked(rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """So many at a time, in order."""
    for start in range(0, len(rows), most):
        yield list(rows[start : start + most])


def main() -> int:
    """Exit status 0, or 2 if the sets are no good."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET", help="folder of a token set of speech with its text")
    parser.add_argument("--steps", type=int, default=700, help="of learning (default 700)")
    parser.add_argument("--longest", type=int, default=1000, help="frames of the longest item to align (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        sets = [TokenSet(folder) for folder in given.sets]
        aligner = learn(given.sets, given.steps, given.longest, given.seed)
        for each in sets:
            durations = align(aligner, each, given.longest)
            each.write_durations(durations)
            known = [row for row in durations if row is not None]
            mean = sum(int(row.sum()) for row in known) / max(1, sum(len(row) for row in known))
            print(f"{each.folder}: {len(known)} of {len(durations)} items aligned, {mean:.2f} frames a byte")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
