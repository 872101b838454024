"""A text corpus in BPE tokens: made once, made anew for another corpus, cut into windows that are short at first."""

import json
import logging

import pytest
import torch

from zoo.codecs.errors import UserError
from zoo.recipes.data.bpe_text import BPEText, TokenCorpus, tokenized
from zoo.recipes.data.byte_text import write_corpus
from zoo.vocabulary import Vocabulary

SPLITS = ("train", "valid", "test")
DOCUMENTS = [(split, f"{split}-{k}", f"{split} text of größe {k}, twice {k}\n".encode() * 4) for split in SPLITS
             for k in range(6)]  # fmt: skip
CARD = 270


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path, DOCUMENTS)
    return tmp_path


def data(folder, **settings) -> BPEText:
    module = BPEText(str(folder), CARD, **{"length": 16, "batch_size": 2, "valid_windows": 3} | settings)
    module.prepare_data()
    module.setup("fit")
    return module


def test_the_tokens_of_a_split_are_its_documents_each_with_an_end(folder):
    out = tokenized(folder, CARD)
    vocabulary = Vocabulary((out / "vocabulary.json").read_text())
    assert vocabulary.card == CARD
    for split in SPLITS:
        corpus = TokenCorpus(out, split)
        tokens = corpus.tokens(0, len(corpus)).tolist()
        wanted = [data for name, _, data in DOCUMENTS if name == split]
        assert tokens.count(vocabulary.end) == len(wanted) and tokens[-1] == vocabulary.end
        assert vocabulary.decode(tokens) == b"".join(wanted)
        assert corpus.tokens(len(corpus) - 1, 3).tolist() == [tokens[-1], *tokens[:2]]  # round and round


def test_tokens_are_made_once_and_again_when_the_corpus_changes(folder, caplog):
    caplog.set_level(logging.INFO)
    out = tokenized(folder, CARD)
    first = (out / "train.tokens").read_bytes()
    tokenized(folder, CARD)
    assert caplog.text.count("training a BPE") == 1
    write_corpus(folder, DOCUMENTS[1:])
    tokenized(folder, CARD)
    assert caplog.text.count("training a BPE") == 2
    assert (out / "train.tokens").read_bytes() != first
    assert json.loads((out / "recipe.json").read_text())["card"] == CARD


def test_what_an_interruption_left_is_made_anew(folder):
    out = tokenized(folder, CARD)
    whole = (out / "train.tokens").read_bytes()
    (out / "recipe.json").unlink()
    (out / "train.tokens").write_bytes(b"half")
    assert (tokenized(folder, CARD) / "train.tokens").read_bytes() == whole


def test_early_batches_are_the_same_tokens_in_shorter_windows(folder):
    long, mixed = data(folder, seed=3), data(folder, seed=3, short_batches=2, parts=4)
    for number in range(4):
        whole, given = long.batch(number), mixed.batch(number)
        assert torch.equal(whole["codes"].flatten(), given["codes"].flatten())
        assert given["codes"].shape == ((8, 1, 4) if number < 2 else (2, 1, 16))
        assert given["lengths"].tolist() == [given["codes"].shape[2]] * len(given["codes"])


def test_settings_that_cannot_be_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="3 equal parts"):
        BPEText(str(folder), CARD, length=16, short_batches=1, parts=3)
    with pytest.raises(UserError, match="65536"):
        tokenized(folder, 70_000)
    with pytest.raises(UserError, match="ask for fewer than 60000"):
        tokenized(folder, 60_000)
    with pytest.raises(UserError, match="holds no text corpus"):
        tokenized(tmp_path / "nowhere", CARD)
