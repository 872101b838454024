"""What a user can get wrong about a decoder's training is said in setup, or as soon as it shows, with the remedy."""

import numpy as np
import pytest
from test_decoder_recipe import CORE, QUICK, SIZES, Repeats, conditioned, decoder, fit

from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.data.generated_text import HelpText
from zoo.recipes.data.token_sets import TokenSets, largest
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.masked import MaskedRecipe
from zoo.token_set_manifest import FORMAT, SetManifest, write_manifest
from zoo.token_sets import Item, describe_shard, write_shard

LAYOUT = Parallel(SIZES, begin=True)


def test_more_labels_than_classes_are_refused_before_training(tmp_path):
    class Named(Repeats):
        codec, weights, labels = "toy.one", "ab12", ("cat", "dog", "emu", "fox")

    recipe = DecoderRecipe(conditioned(LAYOUT), LAYOUT, 1, preview=None)
    with pytest.raises(UserError, match="4 labels, the decoder's conditions 3 classes; use fewer, --data.voices="):
        fit(tmp_path, recipe, Named())
    Named.labels = Named.labels[:3]
    fit(tmp_path, recipe, Named())


def test_texts_of_another_vocabulary_than_bytes_are_refused_before_training(tmp_path):
    reader = TransformerConfig(width=16, layers=1, heads=2, causal=False)
    conditions = ConditionConfig(width=16, text=300, way="prefix", encoder=reader)
    config = AutoregressiveConfig(LAYOUT.cards, CORE, context=64, specials=LAYOUT.specials)
    recipe = DecoderRecipe(ConditionedAutoregressive(ConditionedConfig(conditions, config)), LAYOUT, 1, preview=None)

    class Told(Repeats):
        def make(self, number):
            return super().make(number) | {"text": ["a text"] * self.rows}

    with pytest.raises(UserError, match="a vocabulary of 300 ids, .* UTF-8 bytes; give the conditions text: 256"):
        fit(tmp_path, recipe, Told())


def write_set(folder, lengths):
    """A set of random sequences."""
    folder.mkdir()
    info = CodecInfo("audio", 8000, 1, 10, SIZES, True, 0, 1)
    draw = np.random.default_rng(0)
    items = [
        Item(f"{k}.wav", np.stack([draw.integers(0, size, n) for size in SIZES]), (10 * n,))
        for k, n in enumerate(lengths)
    ]
    facts = (FORMAT, True, "toy.speech", "ab" * 32, info, SIZES, {}, len(items), "")
    write_shard(folder / "tokens-00000.parquet", items, [], SetManifest(*facts))
    shard = describe_shard(folder / "tokens-00000.parquet", "audio")[0]
    write_manifest(folder, SetManifest(*facts, len(items), labels=(), shards=(shard,)))
    return str(folder)


def causal(context):
    """Reads n + 1 steps of n frames: 1 more of the delay, 1 of begin, and not the last."""
    layout = Delay(SIZES, begin=True)
    config = AutoregressiveConfig(layout.cards, CORE, context, layout.specials, learned_positions=True)
    return DecoderRecipe(AutoregressiveDecoder(config), layout, 1, preview=None)


def masked(context):
    """Reads a step for each frame."""
    core = TransformerConfig(width=16, layers=2, heads=2, causal=False)
    config = MaskedConfig(SIZES, core, context, learned_positions=True)
    return MaskedRecipe(MaskedDecoder(config), Parallel(SIZES), 1, preview=None)


@pytest.mark.parametrize(("recipe", "steps"), [(causal, 31), (masked, 30)])
def test_items_beyond_the_context_are_refused_before_training(tmp_path, recipe, steps):
    folder = write_set(tmp_path / "set", [30, 12, 12, 9] * 5)

    def data(**options):
        return TokenSets([folder], [folder], batch_cells=60, epoch_batches=4, **options)

    wanted = f"items of 30 cells, which are {steps} steps to read, .* context is {steps - 1}; .*--data.longest=CELLS"
    with pytest.raises(UserError, match=wanted):
        fit(tmp_path / "beyond", recipe(steps - 1), data())
    fit(tmp_path / "within", recipe(steps), data())
    fit(tmp_path / "left out", recipe(steps - 1), data(longest=29))
    fit(tmp_path / "cropped", recipe(steps - 1), data(longest=29, crop=True))


@pytest.mark.parametrize("learned", [True, False])
def test_windows_of_text_beyond_the_context_are_refused_before_training(tmp_path, learned):
    def text(context):
        core = TransformerConfig(width=16, layers=1, heads=2, rope=not learned)
        config = AutoregressiveConfig((257,), core, context, learned_positions=learned)
        return DecoderRecipe(AutoregressiveDecoder(config), Parallel((257,)), 1, preview=None)

    wanted = "windows of 30 tokens, which are 29 steps to read, .* context is 20; give shorter ones, --data.length=21"
    with pytest.raises(UserError, match=wanted):
        fit(tmp_path / "beyond", text(20), HelpText(length=30, batch_size=2, valid_windows=1))
    fit(tmp_path / "within", text(20), HelpText(length=21, batch_size=2, valid_windows=1))


def test_the_largest_items_are_the_longest_and_of_pictures_the_widest_of_each_height():
    assert largest(np.array([[4], [9], [2]])) == ((9,),)
    assert set(largest(np.array([[2, 5], [2, 7], [3, 1]]))) == {(2, 7), (3, 1)}


@pytest.mark.parametrize(
    ("fatal", "settings"),
    [
        (7, {}),  # the next batch finds it
        (10, {}),  # a checkpoint is about to be written: every 10 steps
        (7, {"val_check_interval": 7, "limit_val_batches": 1}),  # validation would say that the weights hold NaN
    ],
)
def test_a_run_that_diverges_is_stopped_and_leaves_no_checkpoint_of_it(tmp_path, fatal, settings):
    batches = []

    class Diverging(DecoderRecipe):
        def objective(self, batch, cond, number):
            batches.append(number)
            found = super().objective(batch, cond, number)
            return found._replace(loss=found.loss * float("nan")) if number == fatal - 1 else found

    recipe = Diverging(decoder(LAYOUT), LAYOUT, 20, optimization=QUICK, preview=None)
    with pytest.raises(UserError, match=f"loss is nan after {fatal} of 20 steps: .*a lower rate .*optimization.clip"):
        fit(tmp_path, recipe, **settings)
    assert len(batches) == fatal and not (tmp_path / "last.ckpt").exists()


def test_a_rate_that_is_far_too_high_is_named(tmp_path):
    recipe = DecoderRecipe(
        decoder(LAYOUT), LAYOUT, 20, optimization=type(QUICK)(rate=1e38, warmup=0, weight_decay=1.0), preview=None
    )
    with pytest.raises(UserError, match="training diverged; try a lower rate .--model.optimization.rate, 1e.38"):
        fit(tmp_path, recipe)
