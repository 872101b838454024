"""Bits a byte are those of each token given all before it in its document, whatever the windows."""

import json
import lzma
import math

import pytest
import torch

import zoo
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.layouts import Parallel
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.data.byte_text import ByteCorpus, write_corpus
from zoo.text_bits import main, measure
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

DOCUMENTS = [b"abcabcabc" * 9, b"x", b"yes or no " * 3]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus", [("test", f"{k}.txt", data) for k, data in enumerate(DOCUMENTS)])
    return tmp_path / "corpus"


def decoder(context):
    torch.manual_seed(0)
    config = AutoregressiveConfig((257,), TransformerConfig(16, 1, 2), context=context)
    model = AutoregressiveDecoder(config).double().eval()
    model.tokens = TokenFacts(Parallel((257,)), Vocabulary())
    return model


@torch.no_grad()
def by_hand(model):
    nats = 0.0
    for data in DOCUMENTS:
        codes = torch.tensor([256, *data, 256])
        laws = model(codes[None, :-1, None]).logits[0, :, 0].log_softmax(-1)
        nats -= float(laws[torch.arange(len(codes) - 1), codes[1:]].sum())
    return nats / math.log(2) / sum(map(len, DOCUMENTS))


def test_within_the_context_they_are_those_of_whole_documents(corpus):
    model = decoder(128)
    found = measure(model, ByteCorpus(corpus, "test"))
    assert found.decoder == pytest.approx(by_hand(model), rel=1e-6)
    assert (found.documents, found.bytes, found.tokens) == (3, 112, 115)


def test_a_decoder_that_knows_nothing_needs_the_log_of_its_vocabulary_however_short_its_context(corpus):
    model = decoder(10)
    torch.nn.init.zeros_(model.heads.product.weight)
    found = measure(model, ByteCorpus(corpus, "test"), rows=2)
    assert found.decoder == pytest.approx(115 * math.log2(257) / 112)


def test_behind_the_context_the_last_half_of_it_is_seen_at_least(corpus):
    """With windows of 64 tokens and documents of 83, only the tokens behind 64 can differ."""
    long, short = (measure(decoder(context), ByteCorpus(corpus, "test")).decoder for context in (128, 64))
    assert long != short and short == pytest.approx(long, rel=0.05)


def test_compressors_are_given_the_same_documents(corpus):
    found = measure(decoder(128), ByteCorpus(corpus, "test"))
    each = [lzma.compress(data, preset=9 | lzma.PRESET_EXTREME) for data in DOCUMENTS]
    assert found.xz == 8 * sum(map(len, each)) / 112 and found.xz_whole < found.xz
    assert found.gzip_whole < found.gzip


def test_the_command_writes_what_it_found(corpus, tmp_path, capsys):
    zoo.checkpoint.save(decoder(128).float(), tmp_path / "model")
    assert main([str(tmp_path / "model"), "--data", str(corpus), "-o", str(tmp_path / "bits.json")]) == 0
    assert json.loads((tmp_path / "bits.json").read_text()) == json.loads(capsys.readouterr().out)
    assert main([str(tmp_path / "model"), "--data", str(corpus), "--split", "train"]) == 2
    assert "no split" in capsys.readouterr().err
    assert main(["variable.photos", "--data", str(corpus)]) == 2
    assert "decoder of text" in capsys.readouterr().err
