"""The law that is sampled: one function from logits and prefix to log-probabilities, for drafts and verdicts alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.processors.base import Processor, Tracker


@dataclass(frozen=True)
class Law:
    """Settings, applied in this order: sum of streams, processors, temperature, truncations as listed, processors.

    Every truncation works on what the one before left, renormalised.

    Attributes:
        temperature: 0 leaves the most probable token alone, certain.
        top_k: How many of the most probable tokens stay; of equally probable ones, all.
        top_p: Nucleus: the smallest set of most probable tokens that holds this mass stays (Holtzman et al.,
            arXiv 1904.09751).
        min_p: Tokens stay that have at least this share of the largest probability (Nguyen et al., arXiv 2407.01082).
        typical: The smallest set stays that holds this mass and whose surprises lie closest to the entropy (Meister et
            al., arXiv 2202.00666).
        processors: Parts that look at the prefix.
        streams: Weights of synchronised contexts, whose logits are summed: the prompt or condition comes once for each
            of them, the tokens are the first one's. `guidance` gives those of classifier-free guidance; context-aware
            decoding (arXiv 2305.14739) has (1 + a, -a), contrastive decoding (arXiv 2210.15097) has (1, -1) and a model
            for each stream: `SideBySide`. A stream of weight w / t is one of temperature t.
        plausible: Tokens stay that have at least this share of the largest probability in the first of several streams,
            before all else: where streams agree that a token is unlikely, their difference means nothing. The authors
            of contrastive decoding take 0.1.

    Raises:
        ValueError: A setting out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    processors: tuple[Processor, ...] = ()
    streams: tuple[float, ...] = (1.0,)
    plausible: float | None = None

    def __post_init__(self) -> None:
        for name in ("top_k", "top_p", "min_p", "typical", "plausible"):
            low, high, value = 0, math.inf if name == "top_k" else 1, getattr(self, name)
            if value is not None and not low < value <= high:
                raise ValueError(f"{name} is {value}; expected more than {low} and at most {high}, or None for none")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; expected 0 or more")
        if not self.streams or 0 in self.streams or self.streams[0] < 0:
            raise ValueError(f"streams are {self.streams}; expected weights other than 0, the first one positive")
        if self.plausible is not None and len(self.streams) == 1:
            raise ValueError(f"plausible is {self.plausible}, which is for several streams; for one, take min_p")

    @property
    def certain(self) -> bool:
        """One token has all the probability: there is nothing to draw."""
        return self.temperature == 0

    def __call__(
        self, logits: Float[Tensor, "*rows Q V"], prefix: Int[Tensor, "R S Q"] | None = None
    ) -> Float[Tensor, "*rows Q V"]:
        """Log-probabilities of the next step, float32.

        Args:
            logits: -inf forbids a token. Of one stream: `LawState.combine` sums several.
            prefix: `[R, S, Q]` with logits `[R, Q, V]`; what processors look at, not needed without them.

        Raises:
            ValueError: NaN logits, no token left possible, processors and no prefix.
        """
        if not self.processors:
            return self.checked(self.of(logits), logits)
        if prefix is None:
            raise ValueError("this law has processors, which look at the prefix; give it")
        return self.start(prefix)(logits[:, None])[:, 0]

    def start(
        self, prefix: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"] | None = None, checked: bool = True
    ) -> LawState:
        """This law behind a prefix, to be moved along.

        Args:
            prefix: What came before, of the first stream.
            lengths: Steps of each row; default: all.
            checked: Look at values, for NaN and for laws that leave nothing; a GPU has to wait for it.
        """
        if lengths is None:
            lengths = torch.full((len(prefix),), prefix.shape[1], device=prefix.device)
        trackers = [processor.start(prefix, lengths) for processor in self.processors]
        return LawState(self, len(prefix), trackers, checked)

    def of(self, logits: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
        """Log-probabilities, without processors; for temperature 0 the logits need not be made a law first."""
        return most_probable(logits.float()) if self.certain else self.truncated(self.tempered(logits))

    def tempered(self, logits: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
        """Log-probabilities behind the temperature; at temperature 0, of the logits as they are."""
        return (logits.float() / (self.temperature or 1.0)).log_softmax(-1)

    def truncated(self, logp: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
        """Log-probabilities behind the truncations; temperature 0 is one."""
        if self.certain:
            return most_probable(logp)
        if self.top_k is not None and self.top_k < logp.shape[-1]:
            logp = _kept(logp, logp >= logp.topk(self.top_k).values[..., -1:])
        if self.top_p is not None and self.top_p < 1:
            logp = _kept(logp, _smallest_set(logp, logp, self.top_p))
        if self.min_p is not None:
            logp = _kept(logp, logp >= logp.amax(-1, keepdim=True) + math.log(self.min_p))
        if self.typical is not None and self.typical < 1:
            entropy = torch.special.entr(logp.exp()).sum(-1, keepdim=True)
            logp = _kept(logp, _smallest_set(logp, -(-logp - entropy).abs(), self.typical))
        return logp

    def checked(self, logp: Float[Tensor, "*rows V"], logits: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
        """`logp`, unless it is no law, as NaN logits or logits of -inf throughout make it.

        Raises:
            ValueError: That.
        """
        if not torch.isfinite(logp.amax(-1)).all():
            if logits.isnan().any():
                raise ValueError("NaN logits; the model's weights, condition or dtype are at fault")
            place = (~torch.isfinite(logp.amax(-1))).nonzero()[0].tolist()
            raise ValueError(
                f"the law leaves no token possible, or one infinitely probable, at {place} of {list(logp.shape[:-1])}; "
                "processors that forbid every token, or a stream of negative weight that forbids a token, are at fault"
            )
        return logp


def guidance(scale: float) -> tuple[float, ...]:
    """Weights of classifier-free guidance: of the conditioned stream and, unless the scale is 1, of the other."""
    return (1.0,) if scale == 1 else (scale, 1.0 - scale)


def combined(
    logits: Float[Tensor, "C_times_R *rest"], weights: tuple[float, ...], plausible: float | None = None
) -> Float[Tensor, "R *rest"]:
    """The signed sum of streams; see `LawState.combine`."""
    if len(weights) == 1:
        return logits if weights[0] == 1 else logits * weights[0]
    parts = logits.float().chunk(len(weights))
    total = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
    forbidden = torch.stack([part.isneginf() for weight, part in zip(weights, parts, strict=True) if weight > 0])
    forbidden = forbidden.any(0)
    if plausible is not None:
        forbidden |= parts[0] < parts[0].amax(-1, keepdim=True) + math.log(plausible)
    return total.masked_fill(forbidden, -math.inf)


class LawState:
    """A law behind a prefix: R rows, one tracker for each of its processors.

    A round is `block`, which moves along the draft, then `settle` on what was accepted, then `advance` by the step that
    came next. Without processors all three cost nothing.
    """

    def __init__(self, law: Law, rows: int, trackers: list[Tracker], checked: bool = True):
        self.law, self.rows, self.trackers, self.looks = law, rows, trackers, checked
        self._drafted: Draft | None = None  # since `block`
        self._nodes: list[Tracker] = []  # of a tree, row r and slot i at r * (N + 1) + i

    @property
    def certain(self) -> bool:
        return self.law.certain

    def combine(self, logits: Float[Tensor, "C_times_R *rest"]) -> Float[Tensor, "R *rest"]:
        """The signed sum of the streams, which lie one behind the other in the first axis.

        What a stream of positive weight forbids stays forbidden, and so does what the first one finds implausible.
        """
        return combined(logits, self.law.streams, self.law.plausible)

    def __call__(self, logits: Float[Tensor, "R S Q V"]) -> Float[Tensor, "R S Q V"]:
        """Log-probabilities of what comes behind the prefix; of each of S logits there."""
        if not self.trackers:
            return self._look(self.law.of(logits), logits)
        return torch.stack([self._next(self.trackers, part) for part in logits.unbind(1)], 1)

    def log_prob(self, logp: Float[Tensor, "*rows V"], tokens: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Log-probability of each token under its law."""
        return logp.gather(-1, tokens[..., None])[..., 0]

    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        """One step came, in those rows that move."""
        for tracker in self.trackers:
            tracker.advance(tokens, moves)

    def fork(self, rows: Int[Tensor, "S"] | None = None) -> LawState:
        """The same law behind the same prefix, to be moved on its own; drafters take this.

        Args:
            rows: Row s is a copy of row `rows[s]`, as searches need; default: all, in order.
        """
        rows = torch.arange(self.rows) if rows is None else rows
        return LawState(self.law, len(rows), [tracker.fork(rows) for tracker in self.trackers], self.looks)

    def block(self, logits: Float[Tensor, "R N_plus_1 Q V"], draft: Draft) -> Float[Tensor, "R N_plus_1 Q V"]:
        """Log-probabilities behind the prefix, and behind each node of the draft."""
        self._drafted = draft = draft if draft.slots else Draft.empty(self.rows, draft.tokens.shape[2], logits.device)
        if not self.trackers:
            return self._look(self.law.of(logits), logits)
        if draft.parent is not None:
            return self._tree(logits, draft)
        present, laws, row = draft.present(), [], torch.arange(len(logits), device=logits.device)
        for slot in range(logits.shape[1]):
            # Behind its last node a row is asked again what it was asked there, so that trackers stay where they are.
            laws.append(self._next(self.trackers, logits[row, draft.count.clamp(max=slot)]))
            if slot < draft.slots:
                self.advance(draft.tokens[:, slot], present[:, slot])
        return torch.stack(laws, 1)

    def settle(self, n: Int[Tensor, "R"], path: Int[Tensor, "R K"] | None) -> None:
        """Behind `block`: keep the first `n` nodes of the path alone; None is the path of a chain."""
        draft, self._drafted = self._drafted, None
        if draft is None or not self.trackers:
            return
        if draft.parent is None:
            for tracker in self.trackers:
                tracker.rollback(draft.count - n)
            return
        row = torch.arange(len(n), device=n.device)
        last = n if path is None or not path.shape[1] else torch.where(n > 0, path[row, (n - 1).clamp(0)] + 1, 0)
        self.trackers = [tracker.fork(row * (draft.slots + 1) + last) for tracker in self._nodes]
        self._nodes = []

    def _tree(self, logits: Tensor, draft: Draft) -> Tensor:
        """Every slot gets trackers of its own, which walk down from the root and meet the logits on their way."""
        rows, slots, codebooks, _ = logits.shape
        reach, depth = draft.ancestors(), draft.block_depth()
        root = torch.arange(rows, device=logits.device).repeat_interleave(slots)
        self._nodes = [tracker.fork(root) for tracker in self.trackers]
        at = torch.zeros_like(depth)  # where in the block the trackers of each slot stand
        result = torch.empty_like(logits)
        row = torch.arange(rows, device=logits.device)[:, None]
        for level in range(int(depth.max()) + 1):
            logp = self._next(self._nodes, logits[row, at].flatten(0, 1)).unflatten(0, (rows, slots))
            result = torch.where((depth == level)[..., None, None], logp, result)
            # The node of the next level on the way to each slot's own, if it lies deeper.
            on_way = torch.zeros(rows, slots, slots, dtype=torch.bool, device=logits.device)
            on_way[:, 1:, 1:] = reach & (depth[:, None, 1:] == level + 1)
            moves = on_way.any(-1)
            at = torch.where(moves, on_way.int().argmax(-1), at)
            tokens = draft.tokens[row, (at - 1).clamp(0)].reshape(-1, codebooks)
            for tracker in self._nodes:
                tracker.advance(tokens, moves.flatten())
        return result

    def _next(self, trackers: list[Tracker], logits: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        changed = logits.float()
        for tracker in trackers:
            changed = tracker.logits(changed)
        full = self.law.tempered(changed)
        logp = self.law.truncated(full)
        for tracker in trackers:
            logp = tracker.law(logp, full)
        logp = most_probable(logp) if self.certain else logp.log_softmax(-1)
        return self._look(logp, changed)

    def _look(self, logp: Tensor, logits: Tensor) -> Tensor:
        return self.law.checked(logp, logits) if self.looks else logp


def draw(logp: Float[Tensor, "*rows V"], gumbel: Float[Tensor, "*#rows V"]) -> Int[Tensor, "*rows"]:
    """Tokens of that law: the largest of log-probability plus Gumbel noise (Gumbel, 1954)."""
    return (logp + gumbel).argmax(-1)


def most_probable(logp: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
    """The law of temperature 0: the most probable token, of equal ones the first, for certain. NaN stays."""
    best, index = logp.max(-1, keepdim=True)
    return torch.full_like(logp, -math.inf).scatter_(-1, index, torch.where(torch.isfinite(best), 0.0, best))


def _kept(logp: Tensor, kept: Tensor) -> Tensor:
    return logp.masked_fill(~kept, -math.inf).log_softmax(-1)


def _smallest_set(logp: Tensor, order: Tensor, mass: float) -> Tensor:
    """The first tokens in descending order that hold `mass` together; ids decide between equal ones."""
    index = order.argsort(dim=-1, descending=True, stable=True)
    p = logp.exp().gather(-1, index)
    return torch.zeros_like(logp, dtype=torch.bool).scatter_(-1, index, p.cumsum(-1) - p < mass)
