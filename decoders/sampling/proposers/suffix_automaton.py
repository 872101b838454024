"""Suffix automata: the longest match of what came last with anything before it, however long, in constant time."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.copies import Step, drafted, steps_of
from zoo.decoders.sampling.proposers.given import check_given


class SuffixAutomaton(Proposer):
    """Copies what followed the longest match of a row's last steps, in the row itself or in a corpus.

    Hu et al., "SAM Decoding" (arXiv 2411.10666). Unlike `NGram` it finds matches of any length at once, and searches a
    corpus of any size. The longer the match, the more is copied; rows whose match is too short leave the draft to
    another proposer. A match in the row itself is preferred to an equally long one in the corpus, and there the one
    that came up last. All codebooks of a step must match.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: no forward pass; a few steps of Python for each step that comes, on average, and one look at the tokens a
    round, for which a GPU waits. The corpus is read in the first run: about a microsecond a step, and some hundred
    bytes.

    Args:
        corpus: int64 `[S, Q]`, of the target's vocabulary; None: rows know themselves alone.
        fallback: Drafts where matches are too short.
        shortest: Steps that must match; more where there is a good fallback.
        ahead: Steps that are copied for each step that matches.

    Raises:
        ValueError: Matches or copies of no step.
    """

    def __init__(
        self,
        corpus: Int[Tensor, "S Q"] | None = None,
        fallback: Proposer | None = None,
        shortest: int = 1,
        ahead: int = 2,
    ):
        if shortest < 1 or ahead < 1:
            raise ValueError(f"matches of {shortest} steps, {ahead} steps copied for each; expected 1 or more")
        self.fallback, self.shortest, self.ahead = fallback, shortest, ahead
        self._unread, self._corpus = corpus, _Automaton()
        self._rows: list[_Automaton]
        self._found: list[tuple[int, int]]  # of each row: state of the corpus, length of the match

    def start(self, ctx: Context) -> None:
        if self._unread is not None:
            check_given(self._unread, "the corpus of SuffixAutomaton", ctx.model.info)
            for step in steps_of(self._unread):
                self._corpus.extend(step)
            self._unread = None
        self._rows = [_Automaton() for _ in range(ctx.rows)]
        self._found = [(0, 0)] * ctx.rows
        if self.fallback is not None:
            self.fallback.start(ctx)

    def propose(self, ctx: Context, n: int) -> Draft:
        wanted = self._read(ctx)
        lines = [self._copied(row, n) if wanted[row] else [] for row in range(ctx.rows)]
        return drafted(ctx, n, lines, wanted, self.fallback)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        if self.fallback is not None:
            self.fallback.observe(ctx, outcome)

    def _read(self, ctx: Context) -> list[bool]:
        """Read the steps that came since; returns which rows want more than one step."""
        for row, (automaton, length) in enumerate(zip(self._rows, ctx.length.tolist(), strict=True)):
            for step in steps_of(ctx.tokens[row, len(automaton.steps) : length]):
                automaton.extend(step)
                self._found[row] = self._corpus.match(*self._found[row], step)
        return (ctx.room > 1).tolist()

    def _copied(self, row: int, n: int) -> list[Step]:
        automaton, (state, length) = self._rows[row], self._found[row]
        source, at, match = automaton.steps, automaton.before, automaton.repeats
        if length > match:
            source, at, match = self._corpus.steps, self._corpus.end[state], length
        if match < self.shortest:
            return []
        n = min(n, self.ahead * match)
        period = len(source) - 1 - at
        if source is automaton.steps:  # a match that overlaps the end is a period, and is copied on around it
            return [source[at + 1 + i % period] for i in range(n)]
        return source[at + 1 : at + 1 + n]


class _Automaton:
    """The suffix automaton of a growing line: states are sets of its pieces that end in the same places.

    Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985). State 0 is the empty piece.

    Attributes:
        steps: The line.
        end: Of each state, a place in the line where its pieces end.
        repeats: Steps of the longest piece at the end of the line that is elsewhere in it, too.
        before: Where it ended the last time that it was found so, or for the first time.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.end, self.repeats, self.before = [-1], 0, -1
        self._next: list[dict[Step, int]] = [{}]
        self._link, self._length = [-1], [0]
        self._whole = 0  # the state of the whole line

    def extend(self, step: Step) -> None:
        """One step more."""
        place = len(self.steps)
        self.steps.append(step)
        state, self._whole = self._whole, self._state({}, 0, place + 1, place)
        while state >= 0 and step not in self._next[state]:
            self._next[state][step] = self._whole
            state = self._link[state]
        link = 0
        if state >= 0:
            link = self._next[state][step]
            if self._length[link] > self._length[state] + 1:
                link = self._split(state, step, link)
        self._link[self._whole] = link
        self.repeats, self.before, self.end[link] = self._length[link], self.end[link], place if link else -1

    def match(self, state: int, length: int, step: Step) -> tuple[int, int]:
        """State and length of the longest piece at the end of another line, one step on."""
        while state > 0 and step not in self._next[state]:
            state = self._link[state]
            length = self._length[state]
        return (self._next[state][step], length + 1) if step in self._next[state] else (0, 0)

    def _state(self, next: dict[Step, int], link: int, length: int, end: int) -> int:
        self._next.append(next)
        self._link.append(link)
        self._length.append(length)
        self.end.append(end)
        return len(self.end) - 1

    def _split(self, state: int, step: Step, long: int) -> int:
        """A state of its own for those pieces of `long` that are one step behind those of `state`, and shorter ones."""
        short = self._state(dict(self._next[long]), self._link[long], self._length[state] + 1, self.end[long])
        self._link[long] = short
        while state >= 0 and self._next[state].get(step) == long:
            self._next[state][step] = short
            state = self._link[state]
        return short
