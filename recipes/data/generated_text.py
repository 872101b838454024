"""Text that is at hand everywhere: the help topics that come with Python, for tests and first runs."""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from zoo.recipes.data.byte_text import ByteText, Windows
from zoo.recipes.data.files import held_out


class Texts:
    """Texts one behind the other as one run of bytes, each with the end behind it."""

    def __init__(self, texts: list[str], end: int) -> None:
        self._tokens = np.concatenate([np.array([*text.encode(), end], np.int64) for text in texts])

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, start: int, count: int) -> Int64[ndarray, "count"]:
        """Tokens from one place on; behind the last comes the first again."""
        return self._tokens[np.arange(start, start + count) % len(self)]


class HelpText(ByteText):
    """Windows of bytes as `ByteText` gives them, of what `help()` knows; the folder is not looked at."""

    def setup(self, stage: str) -> None:
        """Part the topics."""
        if self._valid is None:
            apart = {name: held_out(name, 10.0) for name in sorted(topics)}
            self._train, self._valid = (
                Windows(
                    Texts([topics[name] for name in apart if apart[name] == wanted], self.vocabulary.end),
                    self.length, self.batch_size, self.seed,
                )
                for wanted in (False, True)
            )  # fmt: skip
