"""Text is tokens and comes back, whatever is in it."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from zoo.codecs.errors import UserError
from zoo.vocabulary import Vocabulary, byte_characters, published, train_bpe

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


@pytest.fixture
def byte_level(bpe):
    """As GPT-2 and Llama 3 publish theirs: an end in the middle, a token in front, and a word that was added."""
    found = Tokenizer.from_str(bpe.content)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<|end|>", "<|begin|>"])
    found.add_tokens([AddedToken("<under>")])
    begin = found.token_to_id("<|begin|>")
    found.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    return found


@pytest.fixture
def sentencepiece():
    """As Llama 2 and Mistral publish theirs: words begin with a sign, what is no piece is told byte by byte."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab"]
    vocabulary = {name: token for token, name in enumerate(names)}
    merges = [("▁", "a"), ("▁a", "b")]
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found.add_special_tokens(["<unk>", "<s>", "</s>"])
    found.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return found


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_published_tokenizer_reads_and_writes_as_transformers_does(kind, request):
    theirs = PreTrainedTokenizerFast(tokenizer_object=(library := request.getfixturevalue(kind)))
    end = library.token_to_id("<|end|>" if kind == "byte_level" else "</s>")
    ours = published(json.loads(library.to_str()), 400, end)
    assert (ours.card, ours.end, len(ours.pieces), len(ours.sizes)) == (400, end, 400, 400)
    for text in [*TEXTS, "ab ab  a größer \U0001f600", "an <under> word"]:
        tokens = ours.encode(text)
        assert tokens == theirs(text)["input_ids"]
        # SentencePiece writes a space in front of each text, which whoever goes on with a text doesn't see.
        begun = ours.decode(tokens).decode().removeprefix(" " if kind == "sentencepiece" else "")
        assert begun == theirs.decode(tokens, skip_special_tokens=True)
    assert ours.decode([end, 399, *ours.encode("")]) == b"" and len(ours.encode("")) == 1


def test_a_published_vocabulary_is_made_again_of_its_content(byte_level):
    values = json.loads(byte_level.to_str())
    ours = published(values, 400, byte_level.token_to_id("<|end|>"))
    assert Vocabulary(ours.content) == ours and Vocabulary(ours.content).pieces == ours.pieces
    assert published(values, 401, ours.end) != ours


def test_lengths_of_training_do_not_cut_or_fill_prompts(byte_level):
    byte_level.enable_truncation(3)
    assert len(published(json.loads(byte_level.to_str()), 400, 279).encode("a b c d e f")) > 3
    byte_level.no_truncation()
    byte_level.enable_padding(length=50)
    assert len(published(json.loads(byte_level.to_str()), 400, 279).encode("a b")) < 50


def test_published_tokenizers_that_cannot_be_used_are_refused(byte_level):
    values = json.loads(byte_level.to_str())
    with pytest.raises(UserError, match="has 282 tokens and the end 279, but the model has 281 tokens"):
        published(values, 281, 279)
    with pytest.raises(UserError, match="the end 400, but the model has 400"):
        published(values, 400, 400)
    with pytest.raises(UserError, match=r"makes text of tokens by \['WordPiece'\]"):
        published(values | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, 400, 279)
    with pytest.raises(UserError, match=r"makes text of tokens by \[None\]"):
        published(values | {"decoder": None}, 400, 279)
    with pytest.raises(UserError, match="JSON of a tokenizer"):
        published({}, 400, 279)
    with pytest.raises(UserError, match="damaged"):
        Vocabulary('{"pieces": "published"}')
