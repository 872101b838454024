"""A tree that is drawn node by node, each where it is most likely to be of use."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context
from zoo.decoders.sampling.proposers.grown import Grown, Reader, estimated


class DySpec(Grown):
    """Each node is drawn below the one that most likely stands while none of its children so far does.

    Xiong et al., "DySpec" (arXiv 2410.11744). That chance is the product of the draft model's probabilities on the way,
    times what its law has left beyond the children that are there. Siblings are drawn without replacement. Where a node
    goes is settled before its token is looked at: that is why the law is kept, and why it is not `OptTree`, which looks
    at tokens first. Chances are those of `estimated`. The authors ask the draft model about each node in turn; here
    those places that are nearly as good are taken before it is asked about all of them at once.

    Output: identical under the rule `equal`; of the same distribution under `recursive`, which gets the law that each
    sibling was drawn from. At temperature 0 there is nothing to draw: nodes are the most probable tokens, and certain.

    Cost: a forward pass of the draft model over the tree so far whenever its new nodes are worth it. The GPU is asked
    once a pass.

    Args:
        model, cond, sharp: See `Grown`.
        least: Places of less chance are left empty.
        gain: Steps. The draft model is asked about new nodes if as many of them stand on average.
        near: Places with so large a part of the chance of the best one are as good; of 1, the authors' order.

    Raises:
        ValueError: Chances outside (0, 1), a gain below 0.
    """

    def __init__(
        self,
        model: TokenModel,
        cond: Any = None,
        least: float = 0.05,
        sharp: float = 2.0,
        gain: float = 0.3,
        near: float = 0.5,
    ):
        if not (0 < least < 1 and 0 < near <= 1 and gain >= 0):
            raise ValueError(
                f"nodes of a chance of {least} or more, and of {near} of the best, a gain of {gain}; expected chances "
                "between 0 and 1, and 0 or more steps"
            )
        super().__init__(model, cond, sharp)
        self.least, self.gain, self.near = least, gain, near

    def grow(self, ctx: Context, n: int, reader: Reader) -> Draft:
        tree, drawn = _Tree(ctx, n, min(n, ctx.model.info.vocabulary)), ctx.densities and not ctx.law.certain
        laws = reader.root.new_zeros(ctx.rows, n + 1, *reader.root.shape[2:], dtype=torch.float32) if drawn else None
        slot = torch.arange(n + 1, device=ctx.length.device)
        unread, last = (slot == 0).expand(ctx.rows, -1), 0
        while True:
            logp = reader.laws(tree.draft(last))
            new = unread[:, : last + 1]
            if laws is not None:
                laws[:, : last + 1] = torch.where(new[..., None, None], logp, laws[:, : last + 1])
            noise = _own_noise(ctx, logp) if drawn else _shared_noise(reader, tree, logp)
            tree.found(ctx, logp + noise, estimated(ctx, logp, noise, self.sharp), new)
            grows = new.any(1)
            came = tree.take(self.least, self.near, grows)
            inner = (tree.depth + 1 < ctx.room[:, None]) & (tree.stands >= self.least)
            unread = came & inner & (tree.count < n)[:, None]
            unread = unread & ((tree.stands * unread).sum(1) >= self.gain)[:, None]
            last = int((unread * slot).max())
            if not last:
                break
        if (tree.count < n).any():
            tree.take(self.least, 0.0, torch.ones_like(grows))
        draft = tree.draft(int(tree.count.max()))
        logq = None if laws is None or not draft.slots else tree.left_of(laws, draft.slots)
        return Draft(draft.tokens, draft.count, draft.parent, logq, reader.forwards)


def _shared_noise(reader: Reader, tree: _Tree, logp: Tensor) -> Float[Tensor, "R S Q V"]:
    """Of the step behind each slot, as the rule has it."""
    depth = tree.depth[:, : logp.shape[1]]
    row = torch.arange(len(logp), device=logp.device)[:, None]
    return reader.noise(int(depth.max()) + 1)[row, depth]


def _own_noise(ctx: Context, logp: Tensor) -> Float[Tensor, "R S Q V"]:
    """For each slot's children alone: one noise orders all of them, and the best ones are draws without replacement.

    Vieira, "Gumbel-max trick and weighted reservoir sampling" (2014).
    """
    slots = torch.arange(logp.shape[1], device=logp.device)
    return ctx.noise.gumbel(slots.expand(ctx.rows, -1), *logp.shape[2:])


class _Tree:
    """Nodes, of each row as many as there are so far, and for each slot of the block the children that it may get.

    Args:
        n: Most nodes.
        width: Most children of a node.

    Attributes:
        count: Nodes of each row.
        stands: Chance of each slot of the block; of the last known step, which is slot 0, it is 1.
        depth: Of each slot.
    """

    def __init__(self, ctx: Context, n: int, width: int):
        rows, codebooks, like = ctx.rows, ctx.tokens.shape[2], ctx.length
        self.n, self.width = n, width
        self.count: Int[Tensor, "R"] = torch.zeros_like(like)
        self.stands: Float[Tensor, "R n_plus_1"] = torch.zeros(rows, n + 1, device=like.device)
        self.stands[:, 0] = 1
        self.depth: Int[Tensor, "R n_plus_1"] = like.new_zeros(rows, n + 1)
        self._tokens: Int[Tensor, "R n Q"] = like.new_zeros(rows, n, codebooks)
        self._parent: Int[Tensor, "R n"] = like.new_full((rows, n), -1)
        self._rank: Int[Tensor, "R n"] = like.new_zeros(rows, n)  # among its siblings
        self._children: Int[Tensor, "R n_plus_1 W Q"] = like.new_zeros(rows, n + 1, width, codebooks)
        self._hit: Float[Tensor, "R n_plus_1 W"] = torch.zeros(rows, n + 1, width, device=like.device)
        self._use: Float[Tensor, "R n_plus_1 W"] = torch.zeros_like(self._hit)  # 0 once it is a node

    def draft(self, slots: int) -> Draft:
        """Its first nodes."""
        return Draft(self._tokens[:, :slots], self.count.clamp(max=slots), self._parent[:, :slots])

    def found(
        self,
        ctx: Context,
        score: Float[Tensor, "R S Q V"],
        chance: Float[Tensor, "R S Q V"],
        new: Bool[Tensor, "R S"],
    ) -> None:
        """What may come below those slots that are new, best first, of each codebook; `chance` is a logarithm."""
        slots = score.shape[1]
        index = score.topk(self.width).indices
        p = chance.gather(-1, index).exp()
        # Of what those before it leave: all others, and the rest of the law.
        tail = p.flip(-1).cumsum(-1).flip(-1) + (1 - p.sum(-1, keepdim=True)).clamp(min=0)
        known = (p > 0).sum(-1, keepdim=True)
        place = torch.arange(self.width, device=p.device)
        hit = torch.where(place < known, p / tail.clamp(min=torch.finfo(p.dtype).tiny), 1)
        # A codebook that has nothing left goes on with its last token.
        tokens = index.gather(-1, torch.minimum(place, (known - 1).clamp(min=0))).transpose(2, 3)
        hit = hit.transpose(2, 3)
        forced = ctx.forced_at(ctx.length[:, None] + self.depth[:, :slots])
        if forced is not None:
            forced = forced[:, :, None]
            tokens, hit = torch.where(forced >= 0, forced, tokens), hit.masked_fill(forced >= 0, 1)
        hit = hit.prod(-1)
        miss = (1 - hit).masked_fill(hit > 1 - 1e-6, 0)
        left = pad(miss[..., :-1].cumprod(-1), (1, 0), value=1.0)
        use = left * (self.stands * (self.depth + 1 < ctx.room[:, None]))[:, :slots, None]
        self._children[:, :slots] = torch.where(new[..., None, None], tokens, self._children[:, :slots])
        self._hit[:, :slots] = torch.where(new[..., None], hit, self._hit[:, :slots])
        self._use[:, :slots] = torch.where(new[..., None], use, self._use[:, :slots])

    def take(self, least: float, near: float, grows: Bool[Tensor, "R"]) -> Bool[Tensor, "R n_plus_1"]:
        """Put nodes to the best places, in rows that grow; returns which slots are new.

        Whether a place is taken follows from the tokens taken before it, never from its own.

        Args:
            near: How good a place must be beside the best one that reading what was taken before it would open.
        """
        use, at = self._use.flatten(1).sort(dim=1, descending=True, stable=True)
        use, at = use[:, : self.n], at[:, : self.n]
        stands = use * self._hit.flatten(1).gather(1, at)
        slot = self.count[:, None] + torch.arange(use.shape[1], device=use.device)
        taken = (use >= least) & (slot < self.n) & grows[:, None]
        if near:
            opened = pad(stands.cummax(1).values[:, :-1], (1, 0))
            taken = (taken & (use >= near * opened)).long().cumprod(1).bool()
        row = torch.arange(len(use), device=use.device)[:, None]
        above, rank = at // self.width, at % self.width
        came = taken.sum(1)  # the first ones of the places
        node = torch.arange(self.n, device=use.device) - self.count[:, None]  # which of them each slot gets
        fresh = (node >= 0) & (node < came[:, None])
        self.count = self.count + came
        node = node.clamp(0, use.shape[1] - 1)
        self._tokens = torch.where(fresh[..., None], self._children[row, above, rank][row, node], self._tokens)
        self._parent = torch.where(fresh, above.gather(1, node) - 1, self._parent)
        self._rank = torch.where(fresh, rank.gather(1, node), self._rank)
        self.stands[:, 1:] = torch.where(fresh, stands.gather(1, node), self.stands[:, 1:])
        self.depth[:, 1:] = torch.where(fresh, self.depth.gather(1, above).gather(1, node) + 1, self.depth[:, 1:])
        self._use = self._use.flatten(1).scatter(1, at, use.masked_fill(taken, 0)).view_as(self._use)
        return pad(fresh, (1, 0))

    def left_of(self, laws: Float[Tensor, "R n_plus_1 Q V"], slots: int) -> Float[Tensor, "R N Q V"]:
        """The law that each of the first nodes was drawn from: that behind its parent, without its elder siblings."""
        row, above = torch.arange(len(laws), device=laws.device)[:, None], self._parent[:, :slots] + 1
        law, children = laws[row, above], self._children[row, above].transpose(2, 3)
        elder = torch.arange(self.width, device=laws.device) < self._rank[:, :slots, None, None]
        gone = torch.zeros_like(pad(law, (0, 1)), dtype=torch.bool)  # one place more for those that stay
        gone = gone.scatter(-1, children.clamp(max=law.shape[-1]).where(elder, law.shape[-1]), True)[..., :-1]
        rest = law.masked_fill(gone, -torch.inf)
        return torch.where((rest > -torch.inf).any(-1, keepdim=True), rest.log_softmax(-1), law)
