"""How long what an audio decoder says will be, and long texts in pieces that it can say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from zoo.codecs.errors import UserError

PAUSE_SECONDS = 0.15  # between pieces; each has some silence of its own at its ends
SLOWEST = 2.0  # times the mean pace: who has not come to an end by then never will
BREATH_SECONDS = 1.0  # silence at the ends of a recording, which short texts have as well as long ones
SPREAD = 1.25  # how far behind the mean pace a piece may fall and still fit

SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+")
CLAUSE_END = re.compile(r"(?<=[,;:–—])\s+")


@dataclass(frozen=True)
class Piece:
    """What is said in one go.

    Attributes:
        text: "" for none.
        frames: How many there will be, or, where the decoder decides, may be.
        durations: Frames of each byte of the text, for decoders that take them.
    """

    text: str
    frames: int
    durations: Float[Tensor, "byte"] | None = None


@dataclass(frozen=True)
class Room:
    """What a decoder can say in one go.

    Attributes:
        rate: Frames a second.
        most: Most frames.
        ends: It decides where to end, at `most` at the latest.
    """

    rate: float
    most: int
    ends: bool

    def frames(self, seconds: float | None) -> int:
        """Of something without text.

        Raises:
            UserError: Nobody said how long it is to be, or it is too long.
        """
        if seconds is None and not self.ends:
            raise UserError("this decoder does not decide how long it goes on; say how long: --seconds")
        frames = self.most if seconds is None else max(1, round(seconds * self.rate))
        if frames > self.most:
            raise UserError(
                f"{seconds:g} s, behind the prompt if there is one, are more than this decoder can go on for; ask for"
                f" {math.floor(self.most / self.rate * 10) / 10:g} s or less"
            )
        return frames


def pieces_of(text: str, room: Room, pace: float | None, seconds: float | None) -> list[Piece]:
    """A text in as few pieces as the decoder can say, cut behind sentences or, in longer ones, clauses.

    Args:
        pace: Frames for a byte, as the speaker has it; None if unknown.
        seconds: Of all pieces and pauses together, at most, in place of the pace's.

    Raises:
        UserError: An empty text, one that can't be cut or drawn out so far, or of which nobody knows how long it takes.
    """
    text = " ".join(text.split())
    if not text:
        raise UserError("the text is empty; give some words to say")
    if seconds is not None:
        pace = seconds * room.rate / len(text.encode())
    if pace is None:
        return [Piece(text, room.frames(None))]
    fitting = math.floor(room.most / pace / (SPREAD if room.ends and seconds is None else 1))
    longest = max(len(clause.encode()) for part in SENTENCE_END.split(text) for clause in CLAUSE_END.split(part))
    if seconds is not None and longest > fitting:
        slowest = room.most * len(text.encode()) / longest / room.rate
        raise UserError(
            f"a text of {len(text.encode())} bytes in {seconds:g} s is slower than this decoder can go on without a"
            f" stop: ask for {math.floor(slowest * 10) / 10:g} s or less, or cut it by more full stops or commas"
        )
    pieces = cut(text, fitting)
    if not room.ends or seconds is not None:
        counts = within([max(1, round(len(piece.encode()) * pace)) for piece in pieces], room, seconds)
    else:
        spare = BREATH_SECONDS * room.rate
        counts = [math.ceil(len(piece.encode()) * pace * SLOWEST + spare) for piece in pieces]
    return [Piece(piece, min(count, room.most)) for piece, count in zip(pieces, counts, strict=True)]


def timed(
    pieces: Sequence[Piece], durations: Sequence[Float[Tensor, "byte"]], room: Room, seconds: float | None
) -> list[Piece]:
    """The same pieces, whose bytes take so many frames; who decides where to end may take a little longer.

    Args:
        seconds: Of all pieces and pauses together, at most; None: as long as they take.

    Raises:
        UserError: So many pieces cannot be that short.
    """
    totals = [float(each.sum()) for each in durations]
    if seconds is not None:
        whole = [max(1, round(total)) for total in totals]
        counts = within(whole, room, seconds)
        shares = [count / frames for count, frames in zip(counts, whole, strict=True)]
        durations = [share * each for share, each in zip(shares, durations, strict=True)]
    else:
        spare = BREATH_SECONDS * room.rate if room.ends else 0
        counts = [max(1, round(total * (SPREAD if room.ends else 1) + spare)) for total in totals]
    counts = [min(room.most, count) for count in counts]
    return [Piece(piece.text, count, each) for piece, count, each in zip(pieces, counts, durations, strict=True)]


def within(counts: list[int], room: Room, seconds: float | None) -> list[int]:
    """Frames of pieces, made fewer in proportion where they, with the pauses between them, would last longer than that.

    Raises:
        UserError: Each has but one frame, and they do.
    """
    if seconds is None:
        return counts
    pieces, pause = len(counts), math.ceil(PAUSE_SECONDS * room.rate)
    left, most = max(1, round(seconds * room.rate)) - (pieces - 1) * pause, sum(counts)
    if left < pieces:
        least = math.ceil((pieces + (pieces - 1) * pause) / room.rate * 10) / 10
        raise UserError(
            f"the text is said in {pieces} pieces, with pauses between them, which {seconds:g} s are too short for;"
            f" give it {least:g} s or more"
        )
    if most <= left:
        return counts
    return [1 + (left - pieces) * (count - 1) // (most - pieces) for count in counts]  # one frame each, and its share


def cut(text: str, most: int) -> list[str]:
    """Pieces of at most so many bytes: whole sentences, as many as fit; of longer ones whole clauses.

    Raises:
        UserError: A clause is longer.
    """
    pieces: list[str] = []
    fitting: list[str] = []
    for sentence in SENTENCE_END.split(text):
        if len(sentence.encode()) <= most:
            fitting.append(sentence)
            continue
        pieces += joined(fitting, most) + joined(CLAUSE_END.split(sentence), most)
        fitting = []
    return pieces + joined(fitting, most)


def joined(parts: Sequence[str], most: int) -> list[str]:
    """Neighbours together, as far as they stay within so many bytes."""
    pieces: list[str] = []
    for part in parts:
        if len(part.encode()) > most:
            brief = part if len(part) <= 40 else part[:40] + "..."
            raise UserError(
                f"{brief!r} has {len(part.encode())} bytes, this decoder says at most {most} in one go; cut it by full"
                " stops or commas, or let it speak faster"
            )
        if pieces and len(f"{pieces[-1]} {part}".encode()) <= most:
            pieces[-1] += f" {part}"
        else:
            pieces.append(part)
    return pieces
