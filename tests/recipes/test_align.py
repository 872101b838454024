"""Token sets of speech learn when each byte of their text is said, and decoders are trained on it."""

import numpy as np
import pytest
import torch
from test_decoder_recipe import QUICK, fit

from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import BYTES, ConditionConfig
from zoo.decoders.layouts import Delay
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes import align
from zoo.recipes.data.token_sets import TokenSets
from zoo.recipes.decoder import DecoderRecipe
from zoo.token_set_manifest import FORMAT, SetManifest, write_manifest
from zoo.token_sets import DURATIONS, Item, TokenSet, describe_shard, write_shard

LETTERS, SIZES = "abcdefgh", (16, 16)


def said(number: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A text without doubled letters, its codes, and how long each letter takes: as many frames as its number says."""
    draw = np.random.default_rng(number)
    steps = draw.integers(1, len(LETTERS), 8).cumsum() % len(LETTERS)
    durations = 1 + steps % 4
    codes = np.repeat(np.stack([steps, 15 - steps]), durations, 1)
    return "".join(LETTERS[k] for k in steps), codes, durations


def write_speech(folder, first: int, count: int) -> str:
    """A set whose last item has no text, and whose last but one more bytes than frames."""
    folder.mkdir()
    items = []
    for k in range(first, first + count):
        text, codes, _ = said(k)
        text = None if k == first + count - 1 else text * 9 if k == first + count - 2 else text
        items.append(Item(f"anna/{k}.wav", codes, (codes.shape[1] * 10,), label="anna" if k % 2 else "bert", text=text))
    info = CodecInfo("audio", 8000, 1, 10, SIZES, True, 0, 1)
    facts = (FORMAT, True, "toy.speech", "ab" * 32, info, SIZES, {}, count, "")
    write_shard(folder / "tokens-0.parquet", items, [], SetManifest(*facts))
    shard, _, _ = describe_shard(folder / "tokens-0.parquet", "audio")
    write_manifest(folder, SetManifest(*facts, count, labels=("anna", "bert"), shards=(shard,)))
    return str(folder)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    sets = [write_speech(folder / "train", 0, 500), write_speech(folder / "valid", 5000, 20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["align", *sets, "--steps", "100"])
        assert align.main() == 0
    return sets


def test_bytes_get_the_frames_that_say_them(aligned):
    found = TokenSet(aligned[1]).durations()
    assert found[-2:] == [None, None] and all(row is not None for row in found[:-2])
    true = [said(5000 + k)[2] for k in range(18)]
    wrong = np.abs(np.concatenate(found[:-2]) - np.concatenate(true)).mean()
    evenly = np.abs(np.concatenate([row - row.mean() for row in true])).mean()
    assert wrong < 0.65 * evenly
    assert [row.sum() for row in found[:-2]] == [said(5000 + k)[1].shape[1] for k in range(18)]


def test_batches_tell_durations_of_their_texts_and_leave_out_texts_without(aligned):
    data = TokenSets([aligned[0]], [aligned[1]], batch_cells=200, text="bytes", valid_items=20)
    data.setup("fit")
    count = 0
    for batch in data.val_dataloader():
        assert batch["durations"].shape == batch["text"].shape
        assert torch.equal(batch["durations"] > 0, batch["text"] >= 0)
        has = (batch["text"] >= 0).any(1)
        assert torch.equal(batch["durations"].sum(1)[has], batch["lengths"][has])
        count += int(has.sum())
    assert count == 18
    data = TokenSets([aligned[0]], [aligned[1]], batch_cells=20, text="bytes", crop=True)
    data.setup("fit")
    assert "durations" not in next(iter(data.val_dataloader()))


def test_only_the_voices_that_are_asked_for_are_used(aligned):
    data = TokenSets([aligned[0]], [aligned[1]], batch_cells=200, voices=["bert"], valid_items=20)
    data.setup("fit")
    assert data.labels == ("bert",) and sum(len(batch["label"]) for batch in data.val_dataloader()) == 10
    assert all((batch["label"] == 0).all() for batch in data.val_dataloader())
    with pytest.raises(UserError, match="no label 'brt'; did you mean 'bert'"):
        TokenSets([aligned[0]], voices=["brt"]).setup("fit")


def timed_recipe() -> DecoderRecipe:
    layout = Delay(SIZES, begin=True, end=True)
    width = dict(width=16, layers=1, heads=2)
    conditions = ConditionConfig(
        16, classes=2, text=BYTES, way="prefix", timed=True, encoder=TransformerConfig(**width, causal=False)
    )
    cards, specials = layout.cards, layout.specials
    config = AutoregressiveConfig(cards=cards, specials=specials, transformer=TransformerConfig(**width), context=64)
    decoder = ConditionedAutoregressive(ConditionedConfig(conditions, config))
    return DecoderRecipe(decoder, layout, 30, optimization=QUICK, preview=None)


def test_a_timed_decoder_learns_durations_beside_its_codes(aligned, tmp_path):
    recipe = timed_recipe()
    data = TokenSets([aligned[0]], [aligned[1]], batch_cells=200, text="bytes")
    data.setup("fit")
    cond = recipe.conditions(next(iter(data.val_dataloader())))
    before = recipe.decoder.duration_loss(cond).item()
    fit(tmp_path, recipe, data)
    assert recipe.decoder.duration_loss(cond).item() < before - 0.05


def test_a_timed_decoder_asks_for_durations(aligned, tmp_path):
    bare = write_speech(tmp_path / "bare", 0, 40)
    data = TokenSets([bare], [bare], batch_cells=200, text="bytes")
    with pytest.raises(UserError, match="python -m zoo.recipes.align SET"):
        fit(tmp_path, timed_recipe(), data)


def test_durations_of_other_rows_are_refused(aligned, tmp_path):
    other = write_speech(tmp_path / "other", 3, 40)
    (tmp_path / "other" / DURATIONS).write_bytes((TokenSet(aligned[1]).folder / DURATIONS).read_bytes())
    with pytest.raises(UserError, match="durations.parquet: was made for other rows; delete it"):
        TokenSet(other).durations()


def test_what_is_no_token_set_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["align", str(tmp_path)])
    assert align.main() == 2
    assert capsys.readouterr().err.startswith("error: ")
