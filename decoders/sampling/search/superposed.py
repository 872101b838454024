"""Superposed decoding: several drafts from the passes of one, which reads the mean of their last tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.decoders.base import TokenModel, bare
from zoo.decoders.embedding import CodeEmbedding
from zoo.decoders.sampling.fixed import certain
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.search.candidates import Ranked, ranked
from zoo.decoders.sampling.search.ngrams import NGrams
from zoo.decoders.sampling.search.paths import Paths, candidates_of


@torch.no_grad()
def superposed_decoding(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P 1"],
    steps: int | Int[Tensor, "R"],
    drafts: int = 3,
    ngrams: NGrams | None = None,
    law: Law | None = None,
    *,
    trust: float = 0.5,
    embedding: nn.Module | None = None,
    **options: Any,
) -> Ranked:
    """Continue each prompt by `drafts` texts at once, from one forward pass of one row a step.

    Shen et al., "Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass" (arXiv
    2405.18400). The pass reads the mean of the embeddings of the drafts' last tokens, weighted by the drafts'
    probabilities, so that all drafts share one memory and one law; what tells them apart is an n-gram model of each
    draft's own tokens. The `drafts` best of all drafts and tokens go on. Nothing is random.

    Exactness: approximate: behind the first step, no draft has been read as it is. `logp` is that of the blended law.
    One draft without n-grams is greedy decoding.
    Cost: a forward pass of one row a step, whatever `drafts` is, and a look into the n-grams for each draft.

    Args:
        model: Of one codebook.
        ngrams: Of texts like those that are wanted. Without, the laws of all drafts are the same.
        law: Without processors, which look at one prefix. Default: the model's own.
        trust: In [0, 1]; weight of the n-grams' log-probabilities; the law's have the rest. The authors take .54 and a
            law of temperature .06.
        embedding: The part of the model that makes a vector of each slot's token and is called once a pass. Default:
            that of the decoder's tokens, where it is known.
        options: `lengths`, `cond`, `stop`, `forced`, `positions`, as `decode` takes them.

    Raises:
        ValueError: Several codebooks, a law with processors, a trust out of its range, a model whose embedding is not
            known; as `decode`.
    """
    law = law or Law()
    if model.info.codebooks > 1 or law.processors or not 0 <= trust <= 1 or drafts < 1:
        raise ValueError(
            f"{model.info.codebooks} codebooks, {len(law.processors)} processors, a trust of {trust} and {drafts}"
            " drafts; expected one codebook, no processors, a trust in [0, 1] and at least 1 draft"
        )
    embedding = embedding_of(model) if embedding is None else embedding
    paths = Paths(model, prompt, steps, law, 1, **options)
    begun = [prompt[row, : int(length), 0].tolist() for row, length in enumerate(paths.at)]
    row = torch.arange(paths.rows, device=prompt.device)[:, None]
    codes = paths.codes.repeat(1, drafts, 1, 1)
    logp, lengths = paths.logp.repeat(1, drafts, 1, 1), paths.lengths.repeat(1, drafts)
    score = logp.new_zeros(lengths.shape, dtype=torch.float64)
    score[:, 1:] = -math.inf  # all drafts are the same prompt
    grows = torch.ones_like(lengths, dtype=torch.bool)
    while paths.alive.any():
        at, ending = paths.grown, paths.ending()[:, 0]
        weights = score.masked_fill(~grows, -math.inf).softmax(-1).nan_to_num()  # a row that is done has none
        with superposed(embedding, codes[:, :, at - 1], weights) if at else nullcontext():
            laws = paths.laws()[:, :, 0].expand(-1, drafts, -1)
        if ngrams is not None:
            laws = _blended(
                laws,
                ngrams,
                [[past + own[:at] for own in each] for past, each in zip(begun, codes[..., 0].tolist(), strict=True)],
                trust,
            )
        laws = certain(laws, ~grows)  # a draft that ended has one successor: itself
        score, index = (score[..., None] + laws).flatten(1).topk(drafts)
        index = index.where(torch.isfinite(score), index[:, :1])
        parent, token = index // laws.shape[-1], index % laws.shape[-1]
        codes, logp, fixed = codes[row, parent], logp[row, parent], paths.fixed()[..., 0]
        codes[:, :, at, 0], logp[:, :, at, 0] = token.where(fixed < 0, fixed), laws[row, parent, token]
        grows = grows[row, parent] & torch.isfinite(score)
        lengths = lengths[row, parent] + grows
        grows &= ~ending.gather(1, token)
        paths.grow(token[:, :1, None], logp[:, :1, at])
        paths.alive = grows.any(1, keepdim=True)
    lengths = lengths.masked_fill(~torch.isfinite(score), 0)
    return ranked(candidates_of(codes, logp, lengths, Exactness.APPROXIMATE, paths.recorder), score)


def _blended(
    laws: Float[Tensor, "R K V"], ngrams: NGrams, known: list[list[list[int]]], trust: float
) -> Float[Tensor, "R K V"]:
    """The laws and the n-grams' behind what each draft knows; what a law forbids stays forbidden."""
    second = torch.stack([torch.stack([ngrams.logp(tokens) for tokens in drafts]) for drafts in known])
    blend = (1 - trust) * laws.masked_fill(laws.isneginf(), 0) + trust * second.to(laws.device)
    return blend.masked_fill(laws.isneginf(), -math.inf).log_softmax(-1)


@contextmanager
def superposed(embedding: nn.Module, tokens: Int[Tensor, "R K 1"], weights: Float[Tensor, "R K"]) -> Iterator[None]:
    """Within, `embedding` gives the weighted mean of what it gives for these tokens, whichever it is asked for."""

    def mean(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        asked, copies = arguments[0], len(arguments[0]) // len(tokens)
        total = torch.zeros_like(output)
        for draft, weight in zip(tokens.unbind(1), weights.unbind(1), strict=True):
            vectors = module.forward(draft.repeat(copies, 1).view_as(asked), *arguments[1:])
            total += weight.to(output.dtype).repeat(copies)[:, None, None] * vectors
        return total

    handle = embedding.register_forward_hook(mean)
    try:
        yield
    finally:
        handle.remove()


def embedding_of(model: TokenModel) -> nn.Module:
    """What makes vectors of a decoder's tokens.

    Raises:
        ValueError: It is not known.
    """
    core = bare(model)
    found = getattr(core, "embedding", None)
    if isinstance(found, CodeEmbedding):
        return found
    inner = getattr(core, "model", None)
    if hasattr(inner, "get_input_embeddings"):
        return inner.get_input_embeddings()
    raise ValueError(f"where {type(core).__name__} embeds its tokens is not known; give it: embedding=")
