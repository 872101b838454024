"""Decoders are told texts in the tokens of a tokenizer: from token sets, in their checkpoints, and when they speak."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_decoder_recipe import QUICK, fit
from tokenizers import Tokenizer

import zoo
from zoo import checkpoint
from zoo.cli import main
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig, text_ids
from zoo.decoders.layouts import Delay
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.data.token_sets import TokenSets
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.teacher import Teacher
from zoo.text_vocabulary import TextVocabulary
from zoo.token_facts import TokenFacts
from zoo.token_set_manifest import FORMAT, SetManifest, write_manifest
from zoo.token_sets import Item, describe_shard, write_shard
from zoo.vocabulary import train_bpe

SIZES, LAYOUT = (16, 16), Delay((16, 16), begin=True, end=True)
TEXTS = ["good day", "good night", "größer", None]
SPEECH = dict(
    sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=2, codebook_size=16, lstm_layers=0, pad="constant"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A codec, a token set of its codes with texts, and a tokenizer of 270 ids."""
    folder = tmp_path_factory.mktemp("told")
    torch.manual_seed(0)
    weights = checkpoint.save(zoo.create("seanet", **SPEECH), folder / "speech")
    (folder / "set").mkdir()
    draw = np.random.default_rng(0)
    items = [Item(f"{k}.wav", draw.integers(0, 16, (2, 9)), (720,), text=text) for k, text in enumerate(TEXTS * 2)]
    info = zoo.load(folder / "speech").info
    facts = (FORMAT, True, "speech", weights, info, SIZES, {}, len(items), "")
    write_shard(folder / "set/tokens-00000.parquet", items, [], SetManifest(*facts))
    shard = describe_shard(folder / "set/tokens-00000.parquet", "audio")[0]
    write_manifest(folder / "set", SetManifest(*facts, len(items), labels=(), shards=(shard,)))
    (folder / "tokenizer.json").write_text(train_bpe([text or "" for text in TEXTS] * 5, 271).content)
    return folder


def data(home, text="tokenizer.json", **options) -> TokenSets:
    sets = [str(home / "set")]
    text = str(home / text) if text.endswith(".json") else text
    return TokenSets(sets, sets, batch_cells=72, text=text, epoch_batches=4, **options)


def recipe(text=270, **options) -> DecoderRecipe:
    torch.manual_seed(0)
    reader = TransformerConfig(width=16, layers=1, heads=2, causal=False)
    conditions = ConditionConfig(width=16, text=text, way="prefix", encoder=reader, **options)
    config = AutoregressiveConfig(LAYOUT.cards, TransformerConfig(16, 1, heads=2), 64, LAYOUT.specials)
    model = ConditionedAutoregressive(ConditionedConfig(conditions, config))
    return DecoderRecipe(model, LAYOUT, 4, optimization=QUICK, preview=None)


@pytest.fixture(scope="module")
def model(home):
    """What a few steps make."""
    trained = recipe()
    fit(home / "run", trained, data(home))
    convert(home / "run/last.ckpt", home / "model")
    return str(home / "model")


def test_token_sets_give_the_ids_of_the_tokenizer_and_none_where_there_is_no_text(home):
    found, tokenizer = data(home), Tokenizer.from_file(str(home / "tokenizer.json"))
    found.setup("fit")
    batch = found.train_stream(0, 1).batch(0)
    told = sorted(tuple(row[row >= 0].tolist()) for row in batch["text"])
    assert told == sorted(tuple(tokenizer.encode(text).ids if text else ()) for text in TEXTS * 2)
    assert batch["text"].max() >= 256  # pieces of more than one byte


def test_a_trained_decoder_carries_its_tokenizer_and_speaks_what_it_is_told_in_its_tokens(home, model, monkeypatch):
    loaded = zoo.load(model)
    assert loaded.tokens.text_vocabulary == TextVocabulary.read(home / "tokenizer.json")
    told, encode = [], loaded.encoder.forward
    monkeypatch.setattr(loaded.encoder, "forward", lambda rows, cond=None: told.append(cond) or encode(rows, cond))
    zoo.generate(loaded, text="good day", codec=home / "speech")
    assert torch.equal(told[0].text, text_ids(["good day"], loaded.tokens.text_vocabulary))
    assert told[0].text.shape[1] < len("good day")


def test_the_command_line_speaks_and_tells_how_many_ids_there_are(home, model, capsys):
    output = home / "said.wav"
    assert main(["generate", model, "--text", "good night", "--codec", str(home / "speech"), "-o", str(output)]) == 0
    assert output.stat().st_size > 0
    assert main(["info", model]) == 0 and "270 ids" in capsys.readouterr().out


def test_a_checkpoint_without_the_file_of_its_tokenizer_is_refused(model, tmp_path):
    for name in ("config.json", "model.safetensors", "tokens.json"):
        (tmp_path / name).write_bytes((Path(model) / name).read_bytes())
    with pytest.raises(UserError, match="text-vocabulary.json: .* needs this file"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("made", "text", "message"),
    [
        (dict(text=300), "tokenizer.json", "of 300 ids, and the data's is one of 270 ids; give .* text: 270"),
        (dict(text=270), "bytes", "of 270 ids, and the data's is UTF-8 bytes; give .* text: 256, or .* --data.text="),
        (dict(text=270, timed=True), "tokenizer.json", "when each byte .* heard .timed.* --data.text=bytes, or set"),
        (dict(text=270), "none.json", "none.json: .*; give the tokenizer.json"),
    ],
)
def test_texts_that_do_not_fit_are_refused_before_training(home, tmp_path, made, text, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, recipe(**made), data(home, text))


def test_a_teacher_is_told_texts_in_the_same_tokens(model):
    facts = zoo.load(model).tokens
    Teacher(model).check(facts)
    with pytest.raises(UserError, match="is of another text_vocabulary"):
        Teacher(model).check(TokenFacts(facts.layout, codec=facts.codec, weights=facts.weights))
