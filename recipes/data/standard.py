"""Standard speech corpora, found through torchaudio's dataset classes, for full training runs.

torchaudio names the files; they are read by our own store, because torchaudio itself needs an optional package to
decode, reads a whole file for each crop, and stops at the first damaged one.
"""

from pathlib import Path
from typing import Any

import torchaudio

from zoo.codecs.errors import UserError
from zoo.recipes.data.corpus import AudioCorpus
from zoo.recipes.data.files import FileList


class LibriTTS(AudioCorpus):
    """LibriTTS: 585 hours of read English at 24 kHz, 2,456 speakers; see `AudioCorpus` for the batches.

    Args:
        root: Folder that holds, or shall hold, `LibriTTS/train-clean-100` and so on.
        train_subsets: Subsets to train on.
        valid_subset: Subset to validate on; its speakers are in no training subset.
        download: Fetch missing subsets (train-clean-100 is 8 GB).
        corpus: The arguments of `AudioCorpus`.
    """

    def __init__(
        self,
        root: str,
        train_subsets: tuple[str, ...] = ("train-clean-100", "train-clean-360"),
        valid_subset: str = "dev-clean",
        download: bool = False,
        **corpus: Any,
    ) -> None:
        super().__init__(**corpus)
        self.root = Path(root)
        self.train_subsets = train_subsets
        self.valid_subset = valid_subset
        self.download = download

    def prepare_data(self) -> None:
        """Fetch what is missing, if allowed to; runs in one process only."""
        for subset in (*self.train_subsets, self.valid_subset):
            self._dataset(subset, self.download)

    def find_clips(self) -> tuple[FileList, FileList]:
        """The files of the subsets."""
        return self._clips(self.train_subsets), self._clips((self.valid_subset,))

    def _clips(self, subsets: tuple[str, ...]) -> FileList:
        paths, speakers = [], []
        for subset in subsets:
            for utterance in self._dataset(subset, download=False)._walker:  # speaker_chapter_segment_utterance
                speaker, chapter, *_ = utterance.split("_")
                paths.append(self.root / "LibriTTS" / subset / speaker / chapter / f"{utterance}.wav")
                speakers.append(speaker)
        return _nonempty(FileList(self.root, paths, speakers), f"LibriTTS {', '.join(subsets)}")

    def _dataset(self, subset: str, download: bool) -> torchaudio.datasets.LIBRITTS:
        if download:
            self.root.mkdir(parents=True, exist_ok=True)
        try:
            return torchaudio.datasets.LIBRITTS(self.root, subset, download=download)
        except RuntimeError as error:
            raise _missing(self.root, f"LibriTTS/{subset}") from error


class VCTK(AudioCorpus):
    """VCTK 0.92: 44 hours of read English at 48 kHz, 110 speakers of many accents; see `AudioCorpus` for the batches.

    Args:
        root: Folder that holds, or shall hold, `VCTK-Corpus-0.92`.
        valid_speakers: Speakers to validate on; training never hears them.
        microphone: "mic1" or "mic2".
        download: Fetch the corpus (11 GB) where it is missing.
        corpus: The arguments of `AudioCorpus`.
    """

    def __init__(
        self,
        root: str,
        valid_speakers: tuple[str, ...] = ("p225", "p226", "p227", "p228"),
        microphone: str = "mic2",
        download: bool = False,
        **corpus: Any,
    ) -> None:
        super().__init__(**corpus)
        self.root = Path(root)
        self.valid_speakers = valid_speakers
        self.microphone = microphone
        self.download = download

    def prepare_data(self) -> None:
        """Fetch the corpus if it is missing and we may; runs in one process only."""
        self._dataset(self.download)

    def find_clips(self) -> tuple[FileList, FileList]:
        """The files of the training speakers and of the validation speakers."""
        audio = self.root / "VCTK-Corpus-0.92" / "wav48_silence_trimmed"
        train, valid = FileList(audio, [], []), FileList(audio, [], [])
        for speaker, utterance in self._dataset(download=False)._sample_ids:
            chosen = valid if speaker in self.valid_speakers else train
            chosen.paths.append(audio / speaker / f"{speaker}_{utterance}_{self.microphone}.flac")
            chosen.folders.append(speaker)
        return _nonempty(train, "VCTK for training"), _nonempty(valid, f"VCTK for {', '.join(self.valid_speakers)}")

    def _dataset(self, download: bool) -> torchaudio.datasets.VCTK_092:
        if download:
            self.root.mkdir(parents=True, exist_ok=True)
        try:
            return torchaudio.datasets.VCTK_092(str(self.root), self.microphone, download=download)
        except RuntimeError as error:
            raise _missing(self.root, "VCTK-Corpus-0.92") from error


def _missing(root: Path, corpus: str) -> UserError:
    return UserError(f"{root}: {corpus} is not there; unpack it there or set download: true")


def _nonempty(clips: FileList, what: str) -> FileList:
    if not clips.paths:
        raise UserError(f"{clips.root}: no files of {what}; is the corpus complete?")
    return clips
