"""Token files of crops, to train models of codes on."""

import numpy as np
from PIL import Image
from small_image_codecs import tiny

from zoo.container import TokenReader
from zoo.recipes.data.picture_crops import PictureCropConfig
from zoo.recipes.picture_tokens import write_tokens


def test_crops_are_tokenized_at_many_rates_and_a_stopped_run_goes_on(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(noise).save(tmp_path / "pictures" / "noise.png")
    crops, codec = PictureCropConfig(size=64, seed=3), tiny("variable", "plain")

    def write(count):
        return write_tokens(codec, tmp_path / "pictures", tmp_path / "tokens", count, crops, (0.05, 0.11), beam=2)

    write(3)
    written = {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()}
    paths = write(12)
    assert [path.name for path in paths] == [f"{number:06}.ztok" for number in range(12)]
    assert all(path.read_bytes() == content for path, content in written.items())
    used = []
    for path in paths:
        with TokenReader(path) as reader:
            tokens = reader.tokens()
        assert tokens.codes.shape[2:] == (4, 4)
        used.append(float(tokens.depth.float().mean()))
    assert max(used) > 1.3 * min(used)
