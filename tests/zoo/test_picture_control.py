"""The control keeps a codec's codes and takes its network away."""

import pytest
import torch
from small_image_codecs import pictures, tiny

from zoo import load
from zoo.checkpoint import save
from zoo.codecs.errors import UserError
from zoo.codecs.image.variable import VariableCodec
from zoo.picture_control import write_control


def test_the_control_has_the_same_codes_and_decodes_by_the_transform_alone(tmp_path):
    codec = tiny("variable", "plain")
    with torch.no_grad():
        codec.repair.leave.weight.normal_()
    save(codec, tmp_path / "codec")
    write_control(tmp_path / "codec", tmp_path / "control")
    control, picture = load(tmp_path / "control"), pictures(1, 32, 48)
    assert isinstance(control, VariableCodec)
    tokens, plain = codec.encode(picture), control.encode(picture)
    assert torch.equal(tokens.codes, plain.codes)
    z = codec.quantizer.decode(tokens.codes)
    linear = torch.nn.functional.conv_transpose2d(z, codec.basis, stride=16) + 0.5
    assert torch.allclose(control.decode(plain), linear.clamp(0, 1), atol=1e-5)
    assert not torch.allclose(codec.decode(tokens), control.decode(plain), atol=1e-2)


def test_other_codecs_have_no_control(tmp_path):
    save(tiny("vqgan", "sphere"), tmp_path / "codec")
    with pytest.raises(UserError, match="no VariableCodec"):
        write_control(tmp_path / "codec", tmp_path / "control")
