"""A text corpus of bytes: what was written is read, windows cover it all, and training on it resumes exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.codecs.errors import UserError
from zoo.recipes.data import byte_text, python_text
from zoo.recipes.data.byte_text import END, INDEX, ByteCorpus, ByteText, write_corpus

DOCUMENTS = [
    ("train", "a.txt", b"first"),
    ("valid", "b.txt", b"held out, and longer than a window"),
    ("train", "c.txt", "größer\n".encode()),
    ("train", "d.txt", b"x"),
]
TRAIN = [*b"first", END, *"größer\n".encode(), END, *b"x", END]


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path, DOCUMENTS)
    return tmp_path


def test_documents_come_back_as_they_were(folder):
    corpus = ByteCorpus(folder, "train")
    assert corpus.names == ["a.txt", "c.txt", "d.txt"]
    assert [corpus.document(k) for k in range(3)] == [data for split, _, data in DOCUMENTS if split == "train"]
    assert (corpus.size, len(corpus)) == (len(TRAIN) - 3, len(TRAIN))


@pytest.mark.parametrize("start", range(len(TRAIN)))
def test_tokens_are_bytes_with_an_end_behind_each_document_round_and_round(folder, start):
    tokens = ByteCorpus(folder, "train").tokens(start, 40)
    assert tokens.tolist() == (TRAIN * 5)[start : start + 40]


def test_large_corpora_are_cut_between_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_text, "SHARD_BYTES", 10)
    write_corpus(tmp_path, DOCUMENTS)
    assert len(list(tmp_path.glob("train-*.bytes"))) == 2
    assert ByteCorpus(tmp_path, "train").tokens(0, len(TRAIN)).tolist() == TRAIN
    monkeypatch.undo()
    write_corpus(tmp_path, DOCUMENTS)
    assert len(list(tmp_path.glob("train-*.bytes"))) == 1


def test_a_round_of_windows_covers_every_token(folder):
    data = ByteText(str(folder), length=6, batch_size=1)  # 3 windows make 18 tokens, which is all of them
    data.setup("fit")
    stream = data.train_stream(0, 1)
    for first in (0, 3):
        seen = np.concatenate([stream.batch(first + k)["codes"].flatten().numpy() for k in range(3)])
        assert sorted(seen) == sorted(TRAIN)


def test_windows_begin_elsewhere_in_each_round(folder):
    data = ByteText(str(folder), length=6, batch_size=3)
    data.setup("fit")
    rounds = [{tuple(row.tolist()) for row in data.train_stream(0, 1).batch(k)["codes"][:, 0]} for k in range(4)]
    assert len({frozenset(windows) for windows in rounds}) > 1


def test_batches_are_a_function_of_seed_and_number(folder):
    def batches(seed, workers=0, consumed=0):
        data = ByteText(str(folder), length=4, batch_size=2, seed=seed, epoch_batches=6, workers=workers)
        data.setup("fit")
        data.load_state_dict({"consumed": consumed})
        return [batch["codes"] for batch in data.train_dataloader()]

    assert all(map(torch.equal, batches(1), batches(1, workers=2)))
    assert all(map(torch.equal, batches(1)[3:], batches(1, consumed=3)))
    assert not all(map(torch.equal, batches(1), batches(2)))
    assert batches(1)[0].shape == (2, 1, 4) and batches(1)[0].dtype == torch.int64


def test_validation_is_the_same_each_time_and_on_the_other_split(folder):
    data = ByteText(str(folder), length=10, batch_size=2, valid_windows=3)
    data.setup("fit")
    found = [batch["codes"] for batch in data.val_dataloader()]
    assert [len(codes) for codes in found] == [2, 1]
    assert bytes(found[0][0, 0].tolist()) == b"held out, "
    assert found[1][0, 0, -1] == END


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / INDEX).unlink(), "holds no text corpus"),
        (lambda folder: (folder / INDEX).write_text("split\n"), "is no index"),
        (lambda folder: (folder / "train-00000.bytes").write_bytes(b"other"), "not of 15 bytes"),
        (lambda folder: (folder / INDEX).write_text("split\tshard\tstart\tbytes\tname\n"), "has no split 'train'"),
    ],
)
def test_a_damaged_corpus_is_one_clear_error(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        ByteCorpus(folder, "train")


def test_a_corpus_shorter_than_a_window_is_refused(folder):
    with pytest.raises(UserError, match="18 tokens, less than a window of 99"):
        ByteText(str(folder), length=99).setup("fit")


@pytest.fixture
def small_python(tmp_path, monkeypatch):
    """A standard library of a few files."""
    library = tmp_path / "lib"
    for name, text in {
        "one.py": "import two\n", "pkg/two.py": "pass\n", "pkg/copy.py": "pass\n", "pkg/__init__.py": "\n",
        "site-packages/other.py": "theirs\n", "pydoc_data/topics.py": "topics = {}\n",
    }.items():  # fmt: skip
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(text)
    (library / "latin.py").write_bytes(b"# caf\xe9\n")
    (library / "LICENSE.txt").write_text("terms\n")
    monkeypatch.setattr(python_text.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    return tmp_path


def test_the_corpus_of_python_holds_the_library_and_pydocs_topics(small_python, capsys):
    out = small_python / "out"
    assert python_text.main(["--out", str(out), "--no-manual"]) == 0
    corpus = json.loads((out / "corpus.json").read_text())
    names = [line.split("\t")[4] for line in (out / INDEX).read_text().splitlines()[1:]]
    assert [name for name in names if name.startswith("library/")] == ["library/one.py", "library/pkg/copy.py"]
    refused = corpus["refused"]["reasons"].items()
    assert {name: reason for name, reason in refused if not name.startswith("topics/")} == {
        "library/latin.py": "not UTF-8",
        "library/pkg/__init__.py": "empty",
        "library/pkg/two.py": "the same as library/pkg/copy.py",
    }
    assert sum(entry["documents"] for entry in corpus["total"].values()) == len(names) > 50
    assert (out / "LICENCE.library.txt").read_text() == "terms\n"
    assert [entry["source"] for entry in corpus["credits"]] == ["library", "topics"]
    assert "train" in capsys.readouterr().out


def test_the_manual_stands_in_place_of_its_extracts(small_python, monkeypatch):
    pages = small_python / "usr/share/doc/python/html/_sources"
    pages.mkdir(parents=True)
    (pages / "index.rst.txt").write_text("Python\n======\n")
    monkeypatch.setattr(python_text, "manual_folder", lambda cache: pages)
    corpus = python_text.build(small_python / "out", small_python, manual=True)
    assert {source for sources in corpus["splits"].values() for source in sources} == {"library", "manual"}
    assert corpus["missing"] == {}


def test_the_running_library_is_found_and_split_by_name_alone():
    documents = dict(python_text.library_documents(Path(json.__file__).parents[1]))
    assert documents["library/json/decoder.py"] == Path(json.decoder.__file__).read_bytes()
    assert not any("site-packages" in name or "topics" in name for name in documents)
    splits = [python_text.split_of(name) for name in documents]
    assert 0.9 < splits.count("train") / len(splits) < 1 and {*splits} == {"train", "valid", "test"}
