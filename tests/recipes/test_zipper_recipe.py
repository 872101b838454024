"""A zipper begins as two decoders that were trained alone, learns with one of them frozen, and says what it is told."""

from types import SimpleNamespace

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, fit
from test_decoder_recipe import decoder as codes_decoder

import zoo
from zoo import checkpoint
from zoo.cli import main
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.zipper import Zipper, ZipperConfig
from zoo.recipes.cli import train
from zoo.recipes.data.sung_letters import SungLetters
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.export import export
from zoo.text_vocabulary import TextVocabulary
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary

TEXT = "autoregressive.text-draft"
LAYOUT = Delay(SIZES, begin=True)


def smoke(name, folder, steps, *options):
    """The `last.ckpt` of so many steps of a smoke recipe."""
    steps = [f"--model.steps={steps}", f"--trainer.val_check_interval={steps}"]
    return train(name, [f"--run.folder={folder}", *steps, *options]) / "last.ckpt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of a decoder of sung letters, of a zipper that began as it and a language model, and its model."""
    folder = tmp_path_factory.mktemp("zipper")
    codes = smoke("autoregressive.singing-smoke", folder / "codes", 20)
    towers = f"--model.towers_from=[{TEXT}, {codes}]"
    begun = smoke("zipper.singing-smoke", folder / "run", 8, towers)
    convert(begun, folder / "model")
    return SimpleNamespace(codes=str(codes), zipper=begun, model=folder / "model")


def test_the_frozen_tower_is_the_same_to_the_last_bit_after_training_and_all_else_has_learned(runs):
    state = torch.load(runs.zipper, weights_only=True)["state_dict"]
    trained, text, codes = zoo.load(runs.model), zoo.load(TEXT), export(runs.codes)[0]
    for front in ("decoder.", "average.module."):
        for name, weight in text.state_dict().items():
            assert torch.equal(state[f"{front}towers.members.0.{name}"], weight), name
        for name, weight in codes.named_parameters():
            assert not torch.equal(state[f"{front}towers.members.1.{name}"], weight), name
        assert all(state[f"{front}towers.joints.1.{number}.gate"] != 0 for number in range(trained.config.joints))
    for name, weight in text.state_dict().items():
        assert torch.equal(trained.towers.members[0].state_dict()[name], weight), name


def test_before_training_it_is_its_target_tower_whatever_it_is_told(runs):
    codes, text = export(runs.codes)[0], zoo.load(TEXT)
    model = Zipper(ZipperConfig((text.config, codes.config), 1, frozen=(True, False)))
    recipe = DecoderRecipe(model, codes.tokens.layout, 1, preview=None, towers_from=(TEXT, runs.codes))
    tokens = torch.randint(1024, (2, 5, 2))
    said = Conditions(text=text_ids(["abc", "d"], text.tokens.vocabulary))
    for begun in (recipe.decoder.eval(), recipe.average.module):
        for cond in (said, None):
            logits = begun(tokens, state=begun.init_state(2, 0, cond)).logits
            assert torch.equal(logits, codes(tokens).logits)


def test_it_reads_texts_in_the_tokens_of_its_tower_and_its_model_carries_these(runs, tmp_path):
    tokens = zoo.load(runs.model).tokens
    assert tokens.text_vocabulary == TextVocabulary.written_by(zoo.load(TEXT).tokens.vocabulary)
    assert tokens.codec == "spectral.speech-16khz" and tokens.weights == zoo.info(tokens.codec).sha256
    for output in (tmp_path / "x.wav", tmp_path / "x.ztok"):
        assert main(["generate", str(runs.model), "--text", "abba", "-o", str(output)]) == 0
        assert output.stat().st_size > 0


@pytest.mark.slow
def test_the_smoke_recipe_learns_to_sing_what_it_is_told(tmp_path):
    convert(smoke("zipper.singing-smoke", tmp_path / "run", 400), tmp_path / "model")
    data, model = SungLetters(letters=2), zoo.load(tmp_path / "model")
    data.setup("fit")
    for word in ("a", "d", "ab", "ba", "dc"):
        said = torch.cat([data.sounds()["abcd".index(letter)] for letter in word], 1)
        assert torch.equal(zoo.generate(model, text=word, temperature=0.0).tokens[0].codes[0], said)


def test_letters_are_sung_in_the_same_codes_in_every_word():
    data = SungLetters(letters=3, batch_size=20)
    data.setup("fit")
    batch = data.make(0)
    assert [sound.shape for sound in data.sounds()] == [(2, 3), (2, 6), (2, 9), (2, 12)]
    for word, codes, length in zip(batch["text"], batch["codes"], batch["lengths"], strict=True):
        said = torch.cat([data.sounds()["abcd".index(letter)] for letter in word], 1)
        assert torch.equal(codes[:, :length], said) and (codes[:, length:] == -1).all()


# What does not fit


def bytes_decoder(**options) -> AutoregressiveDecoder:
    return AutoregressiveDecoder(AutoregressiveConfig((257,), TransformerConfig(12, 2, heads=2, **options), context=32))


@pytest.fixture
def towers(tmp_path):
    """Directories of a decoder of bytes and of one of codes."""
    facts = {"text": TokenFacts(Parallel((257,)), Vocabulary()), "codes": TokenFacts(LAYOUT)}
    for name, model in {"text": bytes_decoder(), "codes": codes_decoder(LAYOUT)}.items():
        model.tokens = facts[name]
        checkpoint.save(model, tmp_path / name)
    return SimpleNamespace(text=str(tmp_path / "text"), codes=str(tmp_path / "codes"))


class Told(Repeats):
    """With a text of ten bytes."""

    def make(self, number):
        return super().make(number) | {"text": ["ten bytes!"] * self.rows}


def recipe(towers_from, text=None, layout=LAYOUT, codes=LAYOUT) -> DecoderRecipe:
    config = ZipperConfig(((text or bytes_decoder()).config, codes_decoder(codes).config), 1, frozen=(True, False))
    return DecoderRecipe(Zipper(config), layout, 2, optimization=QUICK, preview=None, towers_from=towers_from)


def test_dropout_may_differ_and_a_tower_may_begin_at_random(towers, tmp_path):
    made = recipe((towers.text, None), bytes_decoder(dropout=0.5))
    fit(tmp_path / "run", made, Told())
    for name, weight in zoo.load(towers.text).state_dict().items():
        assert torch.equal(made.decoder.towers.members[0].state_dict()[name], weight)
    assert made.facts.text_vocabulary is None  # bytes


def test_towers_of_other_shapes_or_kinds_are_refused_by_name(towers):
    with pytest.raises(UserError, match=f"tower 0 can't begin as {TEXT}: its cards is .257., there .4096., .*heads"):
        recipe((TEXT, None))
    with pytest.raises(UserError, match=f"tower 1 can't begin as {towers.text}: its cards"):
        recipe((None, towers.text))
    with pytest.raises(UserError, match="begin as spectral.speech-16khz: that is a SpectralCodec, towers are"):
        recipe((None, "spectral.speech-16khz"))
    with pytest.raises(UserError, match="no such file"):
        recipe((None, "nowhere/last.ckpt"))
    with pytest.raises(UserError, match="towers_from is for a Zipper, and this trains a AutoregressiveDecoder"):
        DecoderRecipe(codes_decoder(LAYOUT), LAYOUT, 1, towers_from=(None, towers.codes))


def test_towers_of_other_tokens_than_the_data_are_refused_before_training(towers, tmp_path):
    class OfACodec(Told):
        codec, weights = "toy.one", "ab12"

    with pytest.raises(UserError, match=f"tower 1, {towers.codes}, is of another codec than the data"):
        fit(tmp_path, recipe((None, towers.codes)), OfACodec())

    class AsBytes(Told):
        text = "bytes"

    draft = zoo.load(TEXT)
    with pytest.raises(UserError, match=f"tower 0, {TEXT}, is of another vocabulary .* strings, .*--data.text=text"):
        fit(tmp_path, recipe((TEXT, None), draft), AsBytes())

    class InPieces(Told):
        text, text_vocabulary = "tokenizer.json", TextVocabulary(draft.tokens.vocabulary.content)

    with pytest.raises(UserError, match="reads texts knows 257 tokens, .* is one of 4095 ids; fill the tower"):
        fit(tmp_path, recipe(None), InPieces())
    fit(tmp_path, recipe((TEXT, None), draft), InPieces())


def test_a_tower_that_reads_text_is_one_of_text(towers, tmp_path):
    layout = Parallel(SIZES[:1], begin=True)
    one = codes_decoder(layout)
    one.tokens = TokenFacts(layout)
    checkpoint.save(one, tmp_path / "one")
    with pytest.raises(UserError, match="one, is no decoder of text, and it is to read texts"):
        recipe((str(tmp_path / "one"), None), one).towers.check(TokenFacts(LAYOUT))
