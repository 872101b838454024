"""A codec goes into a directory and comes out the same; damage of any kind is named."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError

SMALL = dict(ratios=(4, 2), filters=2, dim=4, codebooks=2, codebook_size=8, lstm_layers=1)


@pytest.fixture
def codec():
    return zoo.create("seanet", **SMALL).eval()


@pytest.fixture
def directory(codec, tmp_path):
    checkpoint.save(codec, tmp_path)
    return tmp_path


def edit(directory, **changes):
    path = directory / "config.json"
    header = json.loads(path.read_text())
    header |= changes
    path.write_text(json.dumps({name: value for name, value in header.items() if value is not None}))


def rewrite(directory, change):
    """Change the tensors and let config.json accept any digest."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    edit(directory, sha256=None)


def test_a_saved_codec_comes_back_fused_with_the_same_output(codec, directory):
    again = checkpoint.load_directory(directory)
    assert again.config == codec.config and not again.training
    assert not any(name.endswith("gain") for name in again.state_dict())
    media = torch.randn(1, 1, 200)
    assert torch.equal(again.encode(media).codes, codec.encode(media).codes)
    expected = codec(media, quantize=False).media
    torch.testing.assert_close(again(media, quantize=False).media, expected)


def test_saving_does_not_change_the_codec(codec, directory):
    assert any(name.endswith("gain") for name in codec.state_dict())
    codec(torch.randn(1, 1, 200))


def test_a_loaded_codec_can_be_saved_again_as_the_same_bytes(directory, tmp_path):
    checkpoint.save(checkpoint.load_directory(directory), tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


def test_the_digest_is_that_of_the_weights_file(directory):
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((directory / "config.json").read_text())["sha256"] == digest
    assert checkpoint.load_directory(directory).weights == digest


def test_float16_storage_halves_matrices_and_keeps_counters(codec, tmp_path):
    level = codec.quantizer.levels[0]
    level.counts.fill_(1e-7)  # would be rounded to a tenth of its digits in float16
    large = codec.quantizer.levels[1].embedding.fill_(1e6)  # would be infinite
    checkpoint.save(codec, tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["quantizer.levels.0.embedding"].dtype == torch.float16
    assert torch.equal(stored["quantizer.levels.0.counts"], level.counts)
    assert torch.equal(stored["quantizer.levels.1.embedding"], large)
    assert stored["quantizer.steps"].dtype == torch.int64
    loaded = checkpoint.load_directory(tmp_path)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    torch.testing.assert_close(
        loaded.quantizer.levels[0].embedding, level.embedding, rtol=2**-11, atol=2**-24
    )  # half a unit of float16's last place


def test_no_part_file_is_left_when_the_disk_refuses(codec, tmp_path):
    (tmp_path / "model.safetensors").mkdir()  # a file cannot replace a directory
    with pytest.raises(OSError):
        checkpoint.save(codec, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_flipped_bit_in_the_weights_is_found(directory):
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors: sha256 is .*config.json says .*restore it"):
        checkpoint.load_directory(directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(UserError, match=f"{name}: No such file or directory; a checkpoint directory needs this file"):
        checkpoint.load_directory(directory)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such directory"):
        checkpoint.load_directory(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x80\x04\x95pickle"])
def test_weights_that_are_no_safetensors_are_refused(directory, content):
    (directory / "model.safetensors").write_bytes(content)
    edit(directory, sha256=None)
    with pytest.raises(UserError, match="model.safetensors: not a safetensors file"):
        checkpoint.load_directory(directory)


@pytest.mark.parametrize("content", ["", "{", "\xff\xfe", '{"format": 1, "format'])
def test_a_config_that_is_no_json_is_refused(directory, content):
    (directory / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="config.json: not JSON"):
        checkpoint.load_directory(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2, "extra": 1}, "format 2, this version reads 1; update"),
        ({"format": None}, "missing 'format'"),
        ({"architecture": "spectrl"}, "unknown architecture 'spectrl'; did you mean 'spectral'"),
        ({"config": None}, "missing 'config'"),
        ({"config": []}, "config must be"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_the_reason(directory, changes, message):
    edit(directory, **changes)
    with pytest.raises(UserError, match=message):
        checkpoint.load_directory(directory)


def test_a_config_states_every_field_of_its_architecture(directory):
    config = json.loads((directory / "config.json").read_text())["config"]
    edit(directory, config={name: value for name, value in config.items() if name not in ("causal", "dim")})
    with pytest.raises(UserError, match="config: missing 'dim', 'causal'"):
        checkpoint.load_directory(directory)
    edit(directory, config=config | {"dims": 4})
    with pytest.raises(UserError, match="config: unknown field 'dims'; did you mean 'dim'"):
        checkpoint.load_directory(directory)


def test_a_missing_tensor_is_named(directory):
    rewrite(directory, lambda tensors: tensors.pop("quantizer.levels.0.embedding"))
    with pytest.raises(UserError, match="tensors are missing: quantizer.levels.0.embedding$"):
        checkpoint.load_directory(directory)


def test_an_unexpected_tensor_is_named(directory):
    rewrite(directory, lambda tensors: tensors.update(optimizer=torch.zeros(1)))
    with pytest.raises(UserError, match="tensors are not of this architecture: optimizer$"):
        checkpoint.load_directory(directory)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(directory):
    rewrite(directory, lambda tensors: tensors.update({"quantizer.levels.1.embedding": torch.zeros(9, 4)}))
    message = r"quantizer.levels.1.embedding has shape \[9, 4\], expected \[8, 4\]$"
    with pytest.raises(UserError, match=message):
        checkpoint.load_directory(directory)


def test_a_codec_of_an_unregistered_class_cannot_be_saved(codec, tmp_path):
    class Mine(type(codec)):
        pass

    with pytest.raises(UserError, match="Mine is not registered; add it to zoo.registry.ARCHITECTURES"):
        checkpoint.save(Mine(codec.config), tmp_path)
