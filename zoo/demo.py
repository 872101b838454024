"""Tokenize a recording at three bitrates, reconstruct it, and show the outcome: audio, a picture and a table.

`python -m zoo.demo` takes the bundled recording, `python -m zoo.demo FILE` the first 20 seconds of another one.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import as_file
from pathlib import Path

import zoo
from zoo import demo_audio
from zoo.cli import STARTER
from zoo.codecs.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and say where to look; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("recording", nargs="?", type=Path, help="audio file (default: the bundled one)")
    parser.add_argument("--model", default=STARTER, help="what zoo.load takes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        codec = zoo.load(options.model)
        with as_file(demo_audio.RECORDING) as bundled:
            report = demo_audio.run(options.recording or bundled, codec, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.out / "table.md").write_text(report.markdown())
    report.show()
    print(f"table in   {options.out}/table.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
