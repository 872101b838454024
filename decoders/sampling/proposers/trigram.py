"""A table of what the target finds probable behind each pair of steps, and a tree that is searched for in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.copies import Step, steps_of
from zoo.decoders.sampling.proposers.given import check_given

Pair = tuple[Step, Step]
Table = dict[Pair, dict[Step, float]]


class Trigram(Proposer):
    """Walks through the table from the last two steps on, again and again; where a walk leaves the tree, a node grows.

    Liu et al., "Adaptive Draft-Verification" (ADED, arXiv 2407.12021). The table holds, for each pair of steps, the
    best candidates of the laws that the target gave behind it, in any block so far, the later ones with more weight; a
    corpus may fill it before. A walk chooses the child of the largest mean of how likely walks through it were to
    stand, plus `explore` times its probability while it was walked rarely (PUCT): so few nodes are deep and many wide
    enough. Each row has a table of its own; probabilities take the noise of their step, as rules of shared noise want.

    Output: identical under the rule `equal`, of the same distribution under `recursive`, for which nodes are certain.

    Cost: no forward pass; Python for each slot of a block and for each walk, some ten of microseconds each, and looks
    at the laws for which a GPU waits. Memory of some hundred bytes for each pair that came up. A corpus is read in the
    first run.

    Args:
        corpus: int64 `[S, Q]`, of the target's vocabulary; None: tables begin empty.
        width: Candidates of a pair.
        explore: Weight of what was rarely walked.
        rate: Weight of a new law beside what the table holds.

    Raises:
        ValueError: No candidates, a negative weight, a rate outside (0, 1]; by `start`, a corpus that is none of the
            target's.
    """

    def __init__(
        self, corpus: Int[Tensor, "S Q"] | None = None, width: int = 4, explore: float = 1.0, rate: float = 0.5
    ):
        if width < 1 or explore < 0 or not 0 < rate <= 1:
            raise ValueError(
                f"{width} candidates, a weight of {explore}, a rate of {rate}; expected 1 or more, 0 or more, and a"
                " share in (0, 1]"
            )
        self.width, self.explore, self.rate = width, explore, rate
        self.corpus = corpus
        self._rows: list[Table]
        self._cards: tuple[int, ...]

    def start(self, ctx: Context) -> None:
        if self.corpus is not None:
            check_given(self.corpus, f"the corpus of {type(self).__name__}", ctx.model.info)
        self._cards = ctx.model.info.cards
        self._rows = [dict(self._read) for _ in range(ctx.rows)]
        for table, steps, length in zip(self._rows, ctx.tokens, ctx.length.tolist(), strict=True):
            self._follow(table, steps_of(steps[:length]))

    def propose(self, ctx: Context, n: int) -> Draft:
        deepest = min(n, int(ctx.room.max()) - 1)
        steps = ctx.length[:, None] + torch.arange(max(deepest, 1), device=ctx.length.device)
        gumbel = None if ctx.law.certain else ctx.noise.gumbel(steps, ctx.tokens.shape[2], ctx.model.info.vocabulary)
        trees = [
            self._searched(table, pair, n, room - 1, None if gumbel is None else gumbel[row])
            for row, (table, pair, room) in enumerate(zip(self._rows, self._pairs(ctx), ctx.room.tolist(), strict=True))
        ]
        count = torch.tensor([len(tree) for tree in trees])
        tokens = torch.zeros(ctx.rows, int(count.max()), ctx.tokens.shape[2], dtype=torch.int64)
        parent = torch.full(tokens.shape[:2], -1)
        for row, tree in enumerate(trees):
            if tree:
                tokens[row, : len(tree)] = torch.tensor([node.step for node in tree])
                parent[row, : len(tree)] = torch.tensor([node.parent for node in tree])
        return Draft(*(part.to(ctx.length.device) for part in (tokens, count, parent)))

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Learn the law behind each node of the block, in the order of slots."""
        draft, laws = outcome.draft, outcome.scores.logp
        best = laws.topk(min(self.width, laws.shape[-1]))
        chances, ids = best.values.exp().prod(2).tolist(), best.indices.transpose(2, 3).tolist()
        parents = draft.before().expand(ctx.rows, -1).tolist()  # slots of the block
        for row, count in enumerate(draft.count.tolist()):
            at = int(ctx.length[row] - outcome.count[row])
            if at < 2 or not int(outcome.count[row]):
                continue
            before, root = steps_of(ctx.tokens[row, at - 2 : at])
            pairs: list[Pair] = [(before, root)]
            for step, parent in zip(steps_of(draft.tokens[row, :count]), parents[row], strict=False):
                pairs.append((pairs[parent][1], step))
            for slot, pair in enumerate(pairs):
                law = {
                    tuple(step): chance
                    for step, chance in zip(ids[row][slot], chances[row][slot], strict=True)
                    if chance
                }
                self._learn(self._rows[row], pair, law)

    def _pairs(self, ctx: Context) -> list[Pair | None]:
        """The last two steps of each row."""
        row = torch.arange(ctx.rows, device=ctx.length.device)
        last = steps_of(ctx.tokens[row, ctx.length - 1])
        before = steps_of(ctx.tokens[row, (ctx.length - 2).clamp(min=0)])
        lengths = ctx.length.tolist()
        return [
            pair if length > 1 else None for pair, length in zip(zip(before, last, strict=True), lengths, strict=True)
        ]

    @cached_property
    def _read(self) -> Table:
        """The corpus, read in the first run: before, nobody knows whether it fits."""
        table: Table = {}
        self._follow(table, [] if self.corpus is None else steps_of(self.corpus))
        return table

    def _follow(self, table: Table, steps: list[Step]) -> None:
        """Learn what came behind each pair of a line."""
        for a, b, c in zip(steps, steps[1:], steps[2:], strict=False):
            self._learn(table, (a, b), {c: 1.0})

    def _learn(self, table: Table, pair: Pair, law: dict[Step, float]) -> None:
        """Mix a law into what the table holds; the most probable candidates stay. Entries are never changed."""
        known = table.get(pair)
        if known is not None:
            law = {
                step: (1 - self.rate) * known.get(step, 0.0) + self.rate * law.get(step, 0.0) for step in law | known
            }
        table[pair] = dict(sorted(law.items(), key=lambda item: -item[1])[: self.width])

    def _searched(self, table: Table, pair: Pair | None, n: int, deepest: int, gumbel: Tensor | None) -> list[_Node]:
        """The nodes of so many walks as may be needed for `n`."""
        if pair is None:
            return []
        root, nodes = _Node(pair[1], pair[0], -1, 1.0), []
        for _ in range(4 * n):  # walks that end where the table knows nothing add no node
            if len(nodes) == n:
                break
            way, node = [root], root
            while len(way) <= deepest:
                if node.children is None:
                    noise = None if gumbel is None else gumbel[len(way) - 1]
                    node.children = _children(table, node, noise, self._cards)
                if not node.children:
                    break
                node = max(node.children, key=lambda child, above=node: child.score(above, self.explore))
                way.append(node)
                if not node.walks:
                    node.parent, node.slot = way[-2].slot, len(nodes)
                    nodes.append(node)
                    break
            ends = node.walks == 0  # there is something new
            chance = 1.0 if ends else 0.0
            for node in reversed(way):
                chance *= node.prior
                node.walks, node.total = node.walks + 1, node.total + chance
        return nodes


@dataclass(eq=False)
class _Node:
    """A step in the tree, and what walks through it found."""

    step: Step
    before: Step
    slot: int
    prior: float
    parent: int = -1
    children: list[_Node] | None = None
    walks: int = 0
    total: float = 0.0

    def score(self, above: _Node, explore: float) -> float:
        mean = self.total / self.walks if self.walks else 0.0
        return mean + explore * self.prior * math.sqrt(max(above.walks, 1)) / (1 + self.walks)


def _children(table: Table, node: _Node, gumbel: Tensor | None, cards: tuple[int, ...]) -> list[_Node]:
    law = {
        step: chance
        for step, chance in table.get((node.before, node.step), {}).items()
        if all(code < card for code, card in zip(step, cards, strict=True))  # structure is not to be bet on
    }
    weight = dict(law)
    if gumbel is not None:
        weight = {
            step: chance * math.exp(sum(float(gumbel[book, code]) for book, code in enumerate(step)))
            for step, chance in law.items()
        }
    total = sum(weight.values())
    return [_Node(step, node.step, -1, value / total) for step, value in weight.items() if total > 0 and value > 0]
