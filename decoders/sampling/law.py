"""The law that is sampled: one function from logits and prefix to log-probabilities, for drafts and verdicts alike."""

from __future__ import annotations

import math
from collections.abc import Callable
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
            if (broken := _impossible(logp := self.of(logits), logits)) is not None:
                raise _nothing_left(broken.nonzero()[0].tolist(), broken)
            return logp
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

    A round is `block`, which moves along the draft, then `settle` on what was accepted, `advance` by the step that came
    next, then `hold` and `came` of all that came out. Without processors these cost nothing.

    Args:
        law: What it is without a prefix.
        rows: R.
        trackers: One for each processor.
        checked: Look at values.
        drafts: It is a drafter's: where nothing is possible, all is, instead of an error, as nothing but a draft comes
            of it.
    """

    def __init__(self, law: Law, rows: int, trackers: list[Tracker], checked: bool = True, drafts: bool = False):
        self.law, self.rows, self.trackers, self.looks, self.drafts = law, rows, trackers, checked, drafts
        self._drafted: Draft | None = None  # since `block`
        self._faults: dict[tuple[int, int], ValueError] = {}  # of rows and slots of the block that have no law
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
        """Log-probabilities of what comes behind the prefix; of each of S logits there.

        Raises:
            ValueError: NaN logits, or no token is possible.
        """
        if not self.trackers:
            return self._possible(self.law.of(logits), logits, self._reason, None)
        return torch.stack([self._behind(part, None) for part in logits.unbind(1)], 1)

    def log_prob(self, logp: Float[Tensor, "*rows V"], tokens: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Log-probability of each token under its law."""
        return logp.gather(-1, tokens[..., None])[..., 0]

    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        """One step came, in those rows that move."""
        for tracker in self.trackers:
            tracker.advance(tokens, moves)

    def fork(self, rows: Int[Tensor, "S"] | None = None) -> LawState:
        """The same law behind the same prefix, to be moved on its own.

        Args:
            rows: Row s is a copy of row `rows[s]`, as searches need; default: all, in order.
        """
        rows = torch.arange(self.rows) if rows is None else rows
        return LawState(self.law, len(rows), [tracker.fork(rows) for tracker in self.trackers], self.looks, self.drafts)

    def drafting(self, law: Law | None = None) -> LawState:
        """A fork for a drafter, with its processors behind another law if one is given."""
        fork = self.fork()
        return LawState(law or self.law, self.rows, fork.trackers, self.looks, drafts=True)

    def block(self, logits: Float[Tensor, "R N_plus_1 Q V"], draft: Draft) -> Float[Tensor, "R N_plus_1 Q V"]:
        """Log-probabilities behind the prefix, and behind each node of the draft.

        Where no token is possible, it is a law of all tokens: nodes may yet fall, and rows may have ended. `hold` says
        whether something came of it.

        Raises:
            ValueError: NaN logits.
        """
        self._drafted = draft = draft if draft.slots else Draft.empty(self.rows, draft.tokens.shape[2], logits.device)
        self._faults = {}
        if not self.trackers:
            return self._possible(self.law.of(logits), logits, self._reason)
        if draft.parent is not None:
            return self._tree(logits, draft)
        present, laws, row = draft.present(), [], torch.arange(len(logits), device=logits.device)
        for slot in range(logits.shape[1]):
            # Behind its last node a row is asked again what it was asked there, so that trackers stay where they are.
            laws.append(self._behind(logits[row, draft.count.clamp(max=slot)], slot))
            if slot < draft.slots:
                self.advance(draft.tokens[:, slot], present[:, slot])
        return torch.stack(laws, 1)

    def stuck(self) -> Bool[Tensor, "R"]:
        """Rows in which no token is possible behind the prefix: searches leave them before `hold` says so."""
        stuck = torch.zeros(self.rows, dtype=torch.bool)
        stuck[[row for row, slot in self._faults if slot == 0]] = True
        return stuck

    def hold(self, count: Int[Tensor, "R"], path: Int[Tensor, "R K"] | None) -> None:
        """Whether there was a law of all that came: `count` steps of each row, the accepted nodes and one behind.

        Raises:
            ValueError: One of them came where no token was possible.
        """
        for (row, slot), fault in self._faults.items():
            used = range(int(count[row]))
            if path is not None and used:
                used = [0, *(path[row, : len(used) - 1] + 1).tolist()]
            if slot in used:
                raise fault

    def came(self, tokens: Int[Tensor, "R K Q"], count: Int[Tensor, "R"]) -> None:
        """The first `count` steps of each row came out."""
        for tracker in self.trackers:
            tracker.came(tokens, count)

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
        return self._possible(result, logits, lambda row, slot: _why(self._nodes, row * slots + slot))

    def _behind(self, logits: Float[Tensor, "R Q V"], slot: int | None) -> Float[Tensor, "R Q V"]:
        """What comes behind where the trackers stand, which is a slot of the block."""
        return self._possible(self._next(self.trackers, logits)[:, None], logits[:, None], self._reason, slot)[:, 0]

    def _next(self, trackers: list[Tracker], logits: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        changed = logits.float()
        for tracker in trackers:
            changed = tracker.logits(changed)
        full = self.law.tempered(changed)
        logp = self.law.truncated(full)
        for tracker in trackers:
            logp = tracker.law(logp, full)
        return most_probable(logp) if self.certain else logp.log_softmax(-1)

    def _possible(
        self,
        logp: Float[Tensor, "R S Q V"],
        logits: Float[Tensor, "R S Q V"],
        reason: Callable[[int, int], str | None],
        first: int | None = 0,
    ) -> Float[Tensor, "R S Q V"]:
        """`logp` with a law of all tokens where it is none, as logits of -inf throughout make it.

        Args:
            reason: Of a row and slot, why that is, if anybody knows.
            first: Slot of the block that the first of these is; None: it is no block, and there must be a law.

        Raises:
            ValueError: NaN logits, or no law where there must be one.
        """
        if not self.looks or (broken := _impossible(logp, logits)) is None:
            return logp
        for place in [] if self.drafts else broken.nonzero().tolist():
            told = reason(place[0], place[1])
            fault = ValueError(told) if told else _nothing_left(place, broken)
            if first is None:
                raise fault
            self._faults[place[0], first + place[1]] = fault
        return logp.masked_fill(broken[..., None], -math.log(logp.shape[-1]))

    def _reason(self, row: int, slot: int = 0) -> str | None:
        """Why no token is possible where the trackers stand."""
        return _why(self.trackers, row)


def _impossible(logp: Float[Tensor, "*rows V"], logits: Float[Tensor, "*rows V"]) -> Bool[Tensor, "*rows"] | None:
    """Where a law leaves no token; None: nowhere.

    Raises:
        ValueError: NaN logits.
    """
    best = logp.amax(-1)
    if ((best > -math.inf) & (best < math.inf)).all():  # not of NaN either; `isfinite` takes twice as long
        return None
    if logits.isnan().any():
        raise ValueError("NaN logits; the model's weights, condition or dtype are at fault")
    return ~torch.isfinite(best)


def _why(trackers: list[Tracker], row: int) -> str | None:
    """Why nothing may come next there, as the first of the trackers says that can."""
    return next(filter(None, (tracker.why(row) for tracker in trackers)), None)


def _nothing_left(place: list[int], broken: Tensor) -> ValueError:
    return ValueError(
        f"the law leaves no token possible, or one infinitely probable, at {place} of {list(broken.shape)}; "
        "processors that forbid every token, or a stream of negative weight that forbids a token, are at fault"
    )


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
