"""Names, manifests, and what `zoo.load` says when there is nothing of that name."""

import json

import pytest
import torch

import zoo
from zoo import checkpoint, checkpoints, registry
from zoo.codecs.audio.seanet import SEANetCodec
from zoo.codecs.errors import UserError

SMALL = dict(ratios=(4, 2), filters=2, dim=4, codebooks=2, codebook_size=8, lstm_layers=0)
MANIFEST = dict(
    name="seanet.small-24khz",
    description="Noise.",
    licence="MIT",
    sha256="",
    parameters=1,
    credits=["nobody"],
    metrics=[{"name": "pesq_wb", "value": 1, "conditions": "none"}],
)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A folder of bundled checkpoints that holds one, `seanet.small-24khz`; returns its folder."""
    folder = tmp_path / "seanet.small-24khz"
    sha256 = checkpoint.save(zoo.create("seanet", **SMALL), folder)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"sha256": sha256}))
    monkeypatch.setattr(checkpoints, "_root", lambda: tmp_path)
    return folder


def test_every_architecture_can_be_imported_and_tells_its_own_name():
    for name in registry.ARCHITECTURES:
        kind = registry.architecture_class(name)
        assert registry.architecture_of(kind.__new__(kind)) == name


def test_every_bundled_manifest_is_sound_and_its_weights_are_the_ones_it_names():
    for name in zoo.list_models():
        manifest = zoo.info(name)
        assert manifest.name == name
        assert manifest.architecture in registry.ARCHITECTURES and manifest.tag
        codec = zoo.load(name)
        assert (codec.name, codec.weights) == (name, manifest.sha256)
        assert codec.info.parameters == manifest.parameters


def test_models_are_listed_by_shell_pattern(bundle):
    assert zoo.list_models() == ["seanet.small-24khz"]
    assert zoo.list_models("*24khz*") == ["seanet.small-24khz"]
    assert zoo.list_models("*16khz*") == []


def test_a_bundled_codec_is_loaded_by_name_in_eval_mode_with_its_digest(bundle):
    codec = zoo.load("seanet.small-24khz")
    assert isinstance(codec, SEANetCodec) and not codec.training
    assert codec.name == "seanet.small-24khz"
    assert codec.weights == zoo.info("seanet.small-24khz").sha256
    tokens = codec.encode(torch.zeros(1, 1, 80))
    assert (tokens.codec, tokens.weights) == (codec.name, codec.weights)


def test_a_manifest_is_read_whole(bundle):
    manifest = zoo.info("seanet.small-24khz")
    assert (manifest.architecture, manifest.tag) == ("seanet", "small-24khz")
    assert manifest.credits == ("nobody",)
    assert manifest.metrics == (registry.Metric("pesq_wb", 1.0, "none"),)


def test_a_directory_is_loaded_by_path(bundle):
    assert zoo.load(bundle).config == zoo.load(str(bundle)).config


def test_weights_that_are_not_those_of_the_manifest_are_refused(bundle):
    other = dict(MANIFEST, sha256="0" * 64)
    (bundle / "manifest.json").write_text(json.dumps(other))
    for name in ("seanet.small-24khz", bundle):
        with pytest.raises(UserError, match="the manifest says 000000000000.*restore it"):
            zoo.load(name)


def test_a_misspelt_name_gets_a_suggestion(bundle):
    for call in (zoo.load, zoo.info):
        with pytest.raises(UserError, match="did you mean 'seanet.small-24khz'"):
            call("seanet.smal-24khz")


def test_a_name_far_from_all_gets_the_list(bundle):
    with pytest.raises(UserError, match="there is seanet.small-24khz"):
        zoo.load("./no/such/folder")


def test_a_manifest_with_an_unknown_field_is_refused_by_name(bundle):
    (bundle / "manifest.json").write_text(json.dumps(MANIFEST | {"license": "MIT"}))
    with pytest.raises(UserError, match="manifest.json: unknown field 'license'; did you mean 'licence'"):
        zoo.info("seanet.small-24khz")


def test_create_changes_the_defaults_it_is_given():
    codec = zoo.create("seanet", **SMALL)
    assert codec.config.ratios == (4, 2)
    assert codec.config.sample_rate == 24000


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("senet", {}, "unknown architecture 'senet'; did you mean 'seanet'"),
        ("seanet", {"ratio": (4, 2)}, "unknown field 'ratio'; did you mean 'ratios'"),
        ("seanet", {"ratios": (4, 2.5)}, r"ratios\[1\] must be int, got 2.5"),
        ("seanet", {"ratios": 4}, r"ratios must be tuple\[int, ...\], got 4"),
        ("seanet", {"norm": "batch"}, "norm must be one of 'weight', 'group', 'none', got \"batch\""),
        ("seanet", {"causal": 1}, "causal must be bool, got 1"),
        ("seanet", {"causal": True, "norm": "group"}, "needs causal=False"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_the_reason(architecture, config, message):
    with pytest.raises(UserError, match=message):
        zoo.create(architecture, **config)


def test_a_device_that_is_not_there_is_refused(bundle):
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"device '{device}' is not usable here"):
            zoo.load("seanet.small-24khz", device=device)


def test_loading_draws_no_random_numbers(bundle):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    zoo.load("seanet.small-24khz")
    assert torch.equal(torch.rand(1), wanted)
