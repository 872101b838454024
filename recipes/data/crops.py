"""Random training crops of a corpus: crop number i is a pure function of the seed, i and the readable files."""

from dataclasses import dataclass, field

import numpy as np
import soxr
from jaxtyping import Float32
from numpy import ndarray

from zoo.codecs.audio.io import MediaError
from zoo.codecs.errors import UserError
from zoo.recipes.data.clips import ClipStore
from zoo.recipes.data.shares import Chooser, check_shares, probabilities

_MOST_REDRAWS = 8  # a silent place is left for another this often; then the loudest so far is taken
MOST_FAILURES = 100  # so many files in a row that cannot be read mean that the corpus is gone


@dataclass(frozen=True)
class CropConfig:
    """How training crops are drawn.

    Attributes:
        seconds: Length of a crop.
        seed: Another seed is another stream.
        shares: Folder pattern -> share of all crops that come from matching folders, e.g. `{"synthetic-*": 0.2}`.
            The first pattern that matches a folder counts. The other folders divide what is left. Among the folders of
            one share, every second of audio is as likely as any other.
        gain_db: Every crop gets a random gain from this range, lowered where it would clip.
        level_db: Where given, crops are first brought to this RMS level below full scale.
        stretches: Factors of duration for speed changes; 1.5 is half as long again and lower in pitch to match, like a
            larger speaker.
        stretch_share: Share of the crops that are stretched, each by one of `stretches`.
        silence_db: Crops below this RMS level are drawn again.
    """

    seconds: float = 1.0
    seed: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    gain_db: tuple[float, float] = (-9.0, 3.0)
    level_db: float | None = None
    stretches: tuple[float, ...] = (1.2, 1.5, 0.9)
    stretch_share: float = 0.0
    silence_db: float = -45.0

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise UserError(f"crops of {self.seconds} s; give a positive length")
        check_shares(self.shares)
        if self.stretch_share > 0 and not (self.stretches and min(self.stretches) > 0.1):
            raise UserError(f"stretches {self.stretches}; give at least one factor, such as 1.2")


class CropSource:
    """Draws crops from a store of clips.

    A clip shorter than the crop is followed by others of its folder (the same speaker) until the crop is full.
    """

    def __init__(self, store: ClipStore, folders: list[str], config: CropConfig) -> None:
        self.store = store
        self.config = config
        self.frames = round(config.seconds * store.sample_rate)
        self._everywhere = Chooser(np.arange(len(folders)), probabilities(store.lengths, folders, config.shares))
        clips_of: dict[str, list[int]] = {}
        for clip, folder in enumerate(folders):
            clips_of.setdefault(folder, []).append(clip)
        choosers = {
            folder: Chooser(np.array(clips), store.lengths[clips])
            for folder, clips in clips_of.items()
            if store.lengths[clips].any()
        }
        self._same_folder = [choosers.get(folder) for folder in folders]

    def crop(self, index: int) -> Float32[ndarray, "channel time"]:
        """Crop number `index` of the stream."""
        chance = np.random.default_rng([self.config.seed, index])
        stretch = 1.0
        if chance.random() < self.config.stretch_share:
            stretch = float(chance.choice(self.config.stretches))
        needed = int(np.ceil(self.frames / stretch)) + 1 if stretch != 1.0 else self.frames

        best, best_level = None, -np.inf
        for _ in range(_MOST_REDRAWS):
            candidate = self._draw(chance, needed)
            level = _level_db(candidate)
            if best is None or level > best_level:
                best, best_level = candidate, level
            if level >= self.config.silence_db:
                break
        if stretch != 1.0:
            best = _stretched(best, stretch, self.frames)
        return self._with_gain(best, best_level, chance)

    def _draw(self, chance: np.random.Generator, frames: int) -> ndarray:
        for _ in range(MOST_FAILURES):
            clip = self._everywhere.choose(chance)
            spare = int(self.store.lengths[clip]) - frames
            start = int(chance.integers(spare + 1)) if spare > 0 else 0
            try:
                pieces = [self.store.read(clip, start, frames)]
                missing = frames - pieces[0].shape[1]
                while missing > 0:
                    piece = self.store.read(self._same_folder[clip].choose(chance), 0, missing)
                    missing -= piece.shape[1]
                    pieces.append(piece)
            except MediaError as error:
                failure = error
                continue
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        raise UserError(f"{MOST_FAILURES} files in a row could not be read; is the corpus still there? ({failure})")

    def _with_gain(self, crop: ndarray, level: float, chance: np.random.Generator) -> ndarray:
        gain_db = chance.uniform(*self.config.gain_db)
        if self.config.level_db is not None and level > self.config.silence_db:
            gain_db += self.config.level_db - level
        peak = float(np.abs(crop).max())
        return crop * np.float32(min(10 ** (gain_db / 20), 1 / max(peak, 1e-9)))


def _level_db(samples: ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-12))


def _stretched(samples: ndarray, factor: float, frames: int) -> ndarray:
    longer = soxr.resample(samples.T, 1.0, factor, quality="MQ").T
    if longer.shape[1] < frames:
        longer = np.pad(longer, ((0, 0), (0, frames - longer.shape[1])))
    return np.ascontiguousarray(longer[:, :frames])
