"""Models small enough to enumerate every output, proposers of every kind, and the test that a law was kept."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.decoders.base import DecoderInfo, Output, TokenModel
from zoo.decoders.sampling import Draft, Law, Noise, decode
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers import Context, DraftModel, Proposer
from zoo.decoders.sampling.rules import Rule
from zoo.decoders.state import State, open_block

STEPS = 40  # that the toys know


class Toy(TokenModel):
    """Every step adds a random vector of its position and token; the sum over all that a slot sees makes the logits.

    So the law depends on the whole prefix and on the order of its steps, and block masks matter.

    Args:
        cards: As of any model.
        against: A toy that this one disagrees with as far as it can: its logits, negated.
        depth: Codes of a step depend on those before them.
        causal: Else logits are those of what stands at a place itself, and every place sees all others.
    """

    def __init__(
        self, cards: tuple[int, ...] = (3,), seed: int = 0, against: Toy | None = None, depth: bool = False,
        causal: bool = True, context: int = STEPS, strength: float = 1.2,
    ):  # fmt: skip
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        width, card = 8, max(cards)
        self.table = normal(STEPS + 1, len(cards), card + 2, width)
        self.heads = strength * normal(width, len(cards), card) / width**0.5
        self.codes = normal(len(cards), card + 2, len(cards), card)
        self.against = against
        self.calls = 0
        self._info = DecoderInfo(
            cards=cards, context=context, layers=1, width=width, parameters=0, specials=2, depth=depth, causal=causal
        )
        self.eval()

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Any = None) -> State:
        shapes = [(1, self.table.shape[-1])]
        return State(rows, max_steps, shapes, self.table, None if cond is None else {"cond": [cond]})

    def run(self, tokens: Tensor, positions: Tensor, state: State | None, block_mask: Tensor | None) -> Output:
        self.calls += 1
        books = torch.arange(tokens.shape[2])
        vectors = self.table[positions[..., None], books, tokens].sum(2)
        block = open_block(state, vectors, block_mask, self.info.causal)
        keys, _ = block.extend(0, vectors[:, None], vectors[:, None])
        if block.bias is not None:
            sees = (block.bias[:, 0] == 0).double()
        elif block.causal:
            sees = torch.ones(keys.shape[2], keys.shape[2], dtype=torch.float64).tril()[None]
        else:
            sees = torch.ones(1, tokens.shape[1], keys.shape[2], dtype=torch.float64)
        hidden = (sees.expand(len(keys), -1, -1) @ keys[:, 0]).tanh()
        if state is not None and "cond" in state.condition:
            hidden = hidden + state.condition["cond"][0][:, None]
        if not self.info.causal:  # who stands where
            hidden = (hidden + self.table[positions, 0, -1]).tanh()
        return Output(self._cut(torch.einsum("rnd,dqv->rnqv", hidden, self.heads)), hidden)

    def depth(self, hidden: Tensor, codes: Tensor) -> Tensor:
        if not self.info.depth:
            return super().depth(hidden, codes)
        logits = torch.einsum("rnd,dqv->rnqv", hidden, self.heads)
        for book, later in itertools.combinations(range(codes.shape[2]), 2):
            logits[:, :, later] += self.codes[book, codes[:, :, book], later]
        return self._cut(logits)

    def _cut(self, logits: Tensor) -> Tensor:
        logits = logits.float() if self.against is None else -1.5 * logits.float()
        limits = torch.tensor(self.info.cards)[:, None]
        return logits.masked_fill(torch.arange(logits.shape[-1]) >= limits, -torch.inf)


def adversary(toy: Toy) -> Toy:
    """Finds probable what `toy` does not, and the other way round."""
    twin = Toy(toy.info.cards, depth=toy.info.depth)
    twin.table, twin.heads, twin.codes, twin.against = toy.table, toy.heads, toy.codes, toy
    return twin


def all_outputs(cards: tuple[int, ...], steps: int) -> Tensor:
    """int64 `[outputs, steps, Q]`: each possible one."""
    step = list(itertools.product(*(range(card) for card in cards)))
    return torch.tensor(list(itertools.product(step, repeat=steps)))


def joint_law(model: Toy, prompt: Tensor, steps: int, law: Law) -> Tensor:
    """float64 `[outputs]`: the probability of each of `all_outputs` behind a prompt `[P, Q]`.

    Found without a cache, by a law that goes one step at a time and never back.
    """
    outputs = all_outputs(model.info.cards, steps)
    whole = torch.cat((prompt.expand(len(outputs), -1, -1), outputs), 1)
    total = torch.zeros(len(outputs), dtype=torch.float64)
    state, every = law.start(whole[:, : len(prompt)]), torch.ones(len(outputs), dtype=torch.bool)
    for step in range(len(prompt), whole.shape[1]):
        found = model(whole[:, :step])
        logits, next = found.logits[:, -1], whole[:, step]
        if model.info.depth:
            logits = model.depth(found.hidden[:, -1:], next[:, None])[:, 0]
        logp = state(logits[:, None])[:, 0].double().log_softmax(-1)
        state.advance(next, every)
        total += logp.gather(-1, next[..., None]).sum((1, 2))
    return total.exp()


def step_by_step(model: TokenModel, prompt: Tensor, steps: int, law: Law, noise: Noise, cond: Any = None) -> Tensor:
    """int64 `[R, P + steps, Q]`: sampling as it is in textbooks, of all rows of a law of one stream.

    Each step runs the model on all that came before, and the law goes on from where it was, never back.
    """
    whole, every = prompt, torch.ones(len(prompt), dtype=torch.bool)
    state = law.start(prompt)
    for step in range(prompt.shape[1], prompt.shape[1] + steps):
        logp = state(model(whole, state=model.init_state(len(prompt), 0, cond)).logits[:, -1:])
        gumbel = 0.0 if law.certain else noise.gumbel(torch.full((len(prompt), 1), step), *logp.shape[2:])
        next = draw(logp, gumbel)[:, 0]
        state.advance(next, every)
        whole = torch.cat((whole, next[:, None]), 1)
    return whole


def every_kind(whole: Tensor, other: TokenModel) -> dict[str, Proposer | None]:
    """One of each kind, for outputs that are known, `[R, S, Q]` with the prompt."""
    return {
        "none": None,
        "random": Random(),
        "wrong": Known(whole, wrong=True),
        "right": Known(whole),
        "draft model": DraftModel(other),
        "tree": Tree(whole),
    }


def counts(codes: Tensor, cards: tuple[int, ...]) -> Tensor:
    """How often each of `all_outputs` came."""
    flat = torch.zeros(len(codes), dtype=torch.int64)
    for column, card in zip(codes.flatten(1).unbind(1), cards * codes.shape[1], strict=True):
        flat = flat * card + column
    size = int(torch.tensor(cards).prod()) ** codes.shape[1]
    return torch.bincount(flat, minlength=size)


def chi_square(found: Tensor, law: Tensor) -> float:
    """Probability of counts at least as far from the law as these, if the law holds; 0 if the impossible came."""
    expected = law * found.sum()
    if found[expected == 0].any():
        return 0.0
    order = expected.argsort()
    found, expected = found[order].double(), expected[order]
    rare = int((expected.cumsum(0) < 10).sum()) + 1  # rare outcomes count as one, or the test would be of them alone
    found = torch.cat((found[:rare].sum()[None], found[rare:]))
    expected = torch.cat((expected[:rare].sum()[None], expected[rare:]))
    statistic = ((found - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(found) - 1) / 2, dtype=torch.float64), statistic / 2))


def excess(found: Tensor, law: Tensor) -> float:
    """Total variation between counts and a law, in units of what chance alone gives if the law holds.

    Shares of n draws deviate from p by sqrt(2 / pi) standard deviations, sqrt(p (1 - p) / n), on average.
    """
    draws = found.sum()
    noise = (law * (1 - law) / draws).clamp(min=0).sqrt().sum() * (2 / torch.pi) ** 0.5 / 2
    return float((found / draws - law).abs().sum() / 2 / noise)


class Fit(NamedTuple):
    """How well outputs that were drawn fit the law that enumeration gives: see `chi_square` and `excess`."""

    p: float
    excess: float

    @property
    def good(self) -> bool:
        return self.p > 1e-3 and self.excess < 3


def fit(
    rule: str | Rule, proposer: Proposer | None, law: Law | None = None, window: int = 3, model: Toy | None = None,
    steps: int = 4, prompt: Tensor | None = None, rows: int = 40_000,
) -> Fit:  # fmt: skip
    """Draws complete outputs under a rule; what proposers draw from the global generator is the same every time."""
    model, law, prompt = model or Toy(), law or Law(), torch.tensor([[1]]) if prompt is None else prompt
    torch.manual_seed(4)
    result = decode(model, prompt.expand(rows, -1, -1), steps, law, Noise(4), proposer, rule, window=window)
    found, expected = counts(result.codes, model.info.cards), joint_law(model, prompt, steps, law)
    return Fit(chi_square(found, expected), excess(found, expected))


class Random(Proposer):
    """Any tokens, of rows and lengths that vary."""

    def propose(self, ctx: Context, n: int) -> Draft:
        tokens = torch.stack([torch.randint(card, (ctx.rows, n)) for card in ctx.model.info.cards], -1)
        return Draft(tokens, torch.randint(n + 1, (ctx.rows,)))


class Known(Proposer):
    """Knows what will come, `[R, S, Q]` with the prompt; wrong says it always errs."""

    def __init__(self, whole: Tensor, wrong: bool = False):
        self.whole, self.wrong = whole, wrong

    def propose(self, ctx: Context, n: int) -> Draft:
        row = torch.arange(ctx.rows)[:, None]
        index = ctx.length[:, None] + torch.arange(n)
        tokens = self.whole[row, index.clamp(max=self.whole.shape[1] - 1)].clamp(min=0)
        if self.wrong:
            tokens = (tokens + 1) % torch.tensor(ctx.model.info.cards)
        return Draft(tokens, torch.full((ctx.rows,), n))


class Tree(Proposer):
    """Random trees, with what will come hidden among them."""

    def __init__(self, whole: Tensor):
        self.whole = whole

    def propose(self, ctx: Context, n: int) -> Draft:
        parent = torch.stack(
            [torch.randint(-1, slot, (ctx.rows,)) if slot else torch.full((ctx.rows,), -1) for slot in range(n)], 1
        )
        tree = Draft(
            torch.zeros(ctx.rows, n, self.whole.shape[2], dtype=torch.int64), torch.full((ctx.rows,), n), parent
        )
        index = ctx.length[:, None] - 1 + tree.depth()
        right = self.whole[torch.arange(ctx.rows)[:, None], index.clamp(max=self.whole.shape[1] - 1)].clamp(min=0)
        wrong = torch.stack([torch.randint(card, (ctx.rows, n)) for card in ctx.model.info.cards], -1)
        tokens = torch.where(torch.rand(ctx.rows, n, 1) < 0.6, right, wrong)
        return Draft(tokens, torch.randint(n + 1, (ctx.rows,)), parent)


class SampledTree(Proposer):
    """Draws siblings from a model's law, level by level: of every node as many children as the level says.

    Args:
        distinct: Without replacement, by Gumbel top-k; else independently.
        honest: Says of each sibling which law it was drawn from; else names the first one's for all.
    """

    def __init__(self, model: Toy, branches: tuple[int, ...] = (2, 2), distinct: bool = True, honest: bool = True):
        self.model, self.branches, self.distinct, self.honest = model, branches, distinct, honest

    def propose(self, ctx: Context, n: int) -> Draft:
        row, own, tokens, laws, parents = torch.arange(ctx.rows), ctx.law.drafting(), [], [], []
        level = [(-1, ctx.tokens[:, : int(ctx.length.max()) + len(self.branches)])]
        for depth, branch in enumerate(self.branches):
            at, grown = ctx.length + depth, []
            for parent, known in level:
                logq = own(self.model(known[:, : int(at.max())]).logits[row, at - 1][:, None])[:, 0]
                noise = ctx.noise.derive(parent) if depth else ctx.noise
                for token, law in self._siblings(logq, noise, at[:, None], branch):
                    child = known.clone()
                    child[row, at] = token
                    grown.append((len(tokens), child))
                    tokens.append(token)
                    laws.append(law if self.honest else logq)
                    parents.append(parent)
            level = grown
        parent, count = torch.tensor(parents).expand(ctx.rows, -1), torch.full((ctx.rows,), len(tokens))
        return Draft(torch.stack(tokens, 1), count, parent, torch.stack(laws, 1))

    def _siblings(self, logq: Tensor, noise: Noise, steps: Tensor, branch: int) -> list[tuple[Tensor, Tensor]]:
        shape = logq.shape[1:]
        if not self.distinct:
            return [(draw(logq, noise.derive(k).gumbel(steps, *shape)[:, 0]), logq) for k in range(branch)]
        found, law = [], logq
        for token in (logq + noise.gumbel(steps, *shape)[:, 0]).topk(branch).indices.unbind(-1):
            found.append((token, law))
            law = law.scatter(-1, token[..., None], -torch.inf).log_softmax(-1)
            law = law.masked_fill(law.isnan(), -torch.inf)  # no token is left: further siblings are gaps
        return found
