"""Tokenize a recording and a photograph at three rates each, reconstruct them, let decoders generate, and show it all.

`python -m zoo.demo` takes the bundled recording and photograph. `python -m zoo.demo FILE...` takes others: the first 20
seconds of a recording, a photograph of at most 1024 pixels a side (larger ones are scaled down), or one of each. Then
the bundled decoders write text, speak a sentence and draw pictures.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import as_file
from pathlib import Path

import zoo
from zoo import demo_audio, demo_generate, demo_image
from zoo.cli_options import PICTURE_STARTER, STARTER
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import is_picture
from zoo.demo_report import Report


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and say where to look; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("media", nargs="*", type=Path, help="a recording, a photograph, or both (default: the bundled)")
    parser.add_argument(
        "--model", default=STARTER, help="for the recording: what zoo.load takes (default: %(default)s)"
    )
    parser.add_argument("--picture-model", default=PICTURE_STARTER, help="for the photograph (default: %(default)s)")
    parser.add_argument("--codecs-only", action="store_true", help="leave out what decoders generate")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        reports = run(options.media, options.model, options.picture_model, options.out)
        if not options.codecs_only:
            reports.append(demo_generate.run(options.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.out / "table.md").write_text("\n".join(report.markdown() for report in reports))
    for report in reports:
        report.show()
        print("")
    print(f"tables in  {options.out}/table.md")
    return 0


def run(media: list[Path], model: str, picture_model: str, folder: Path) -> list[Report]:
    """Both parts of the demo."""
    pictures = [path for path in media if is_picture(path)]
    recordings = [path for path in media if path not in pictures]
    if len(pictures) > 1 or len(recordings) > 1:
        raise UserError(f"at most one recording and one photograph can be shown, got {len(media)} files; name fewer")
    codec, picture_codec = zoo.load(model), zoo.load(picture_model)
    with as_file(demo_audio.RECORDING) as bundled:
        heard = demo_audio.run(recordings[0] if recordings else bundled, codec, folder)
    return [heard, demo_image.run(pictures[0] if pictures else None, picture_codec, folder)]


if __name__ == "__main__":
    sys.exit(main())
