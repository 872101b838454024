"""Text is tokens and comes back, whatever is in it."""

import pytest

from zoo.codecs.errors import UserError
from zoo.vocabulary import Vocabulary, byte_characters, train_bpe

TEXTS = ["def decode(self, tokens):\n    return self.tokens\n", "größer 漢字 \U0001f600\x00\r\n\t  <|end|>"]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS * 3, 280)


def test_every_text_comes_back_from_its_tokens(bpe):
    for vocabulary in (Vocabulary(), bpe):
        for text in [*TEXTS, "", "never seen: ∑\n\n\n    x"]:
            tokens = vocabulary.encode(text)
            assert vocabulary.decode(tokens) == text.encode()
            assert int(vocabulary.sizes[tokens].sum()) == len(text.encode())
            assert vocabulary.end not in tokens


def test_pairs_that_are_frequent_become_one_token(bpe):
    assert len(bpe.encode("self.tokens")) < len(b"self.tokens") / 2
    assert (bpe.card, len(bpe.pieces), bpe.end) == (280, 279, 279)


def test_the_end_stands_for_no_bytes(bpe):
    assert bpe.decode([*bpe.encode("a"), bpe.end, *bpe.encode("b")]) == b"ab"
    assert bpe.sizes[bpe.end] == 0


def test_the_same_texts_give_the_same_vocabulary_and_its_content_makes_it_again(bpe):
    again = train_bpe(TEXTS * 3, 280)
    assert again == bpe and Vocabulary(bpe.content).pieces == bpe.pieces
    assert bpe != Vocabulary()


def test_each_byte_has_a_character_of_its_own():
    assert len(set(byte_characters())) == 256 and all(character.isprintable() for character in byte_characters())


def test_numbers_that_are_no_tokens_are_refused(bpe):
    for token in (-1, bpe.card):
        with pytest.raises(ValueError, match=f"token {token} .* 0 .. {bpe.end}"):
            bpe.decode([token])


def test_vocabularies_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="256 bytes"):
        train_bpe(TEXTS, 256)
    with pytest.raises(ValueError, match="ask for fewer than 100000"):
        train_bpe(TEXTS, 100_000)
    with pytest.raises(UserError, match="JSON of a tokenizer"):
        Vocabulary("{}")
