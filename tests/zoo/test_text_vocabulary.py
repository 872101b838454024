"""Texts that a decoder is told become ids of any tokenizer, the same ones wherever it went."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from zoo.codecs.errors import UserError
from zoo.text_vocabulary import TextVocabulary
from zoo.vocabulary import Vocabulary, published, train_bpe

WORDS = {"<s>": 0, "good": 1, "day": 2, "?": 7}  # with a hole, as published ones have it


@pytest.fixture
def words():
    """Of whole words, with a token in front of each text; cuts texts, until it is told not to."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=4)
    return tokenizer


def test_ids_are_those_of_the_tokenizer_whole_and_without_padding(words, tmp_path):
    (tmp_path / "tokenizer.json").write_text(words.to_str(pretty=True))
    found = TextVocabulary.read(tmp_path / "tokenizer.json")
    assert found.encode("good day good night") == [0, 1, 2, 1, 7] and found.size == 8
    assert TextVocabulary(found.content) == found != TextVocabulary(train_bpe(["good day"] * 2, 260).content)


def test_what_a_decoder_writes_may_be_told_to_another():
    """Its end and its padded tokens are nothing that a text is made of."""
    bpe = train_bpe(["good day, good night"] * 9, 265)
    found = TextVocabulary.written_by(bpe)
    assert found.encode("good day") == bpe.encode("good day") and found.size == bpe.card - 1
    assert TextVocabulary.written_by(Vocabulary()) is None
    bytewise = Tokenizer.from_str(bpe.content)
    bytewise.decoder = decoders.ByteLevel()
    model = published(json.loads(bytewise.to_str()), 300, 0)
    assert TextVocabulary.written_by(model) == TextVocabulary(bytewise.to_str())


def test_files_that_hold_no_tokenizer_are_refused_by_name(tmp_path):
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(UserError, match="odd.json: .*neither .* nor JSON of a tokenizer"):
        TextVocabulary.read(tmp_path / "odd.json")
    with pytest.raises(UserError, match="none.json: .*; give the tokenizer.json of a tokenizer"):
        TextVocabulary.read(tmp_path / "none.json")
