"""Builds a corpus of free text from what comes with Python: `python -m zoo.recipes.data.python_text --out data/text`.

Sources are the Python files of the running Python's standard library, its tests among them where they are installed,
and the text of Python's manual as Debian packages it (installed, or fetched with apt). Where the manual cannot be had,
the extracts of it that `pydoc` carries stand in. All of it is under the PSF licence, which is copied beside it.

Written are shards of bytes with an index (see `zoo.recipes.data.byte_text`), and `OUT/corpus.json`: sizes, licences,
digests, what was left out and why. The split of a document is a fixed function of its name, so that the same Python
gives the same corpus.
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from zoo.codecs.errors import UserError
from zoo.recipes.data.byte_text import write_corpus
from zoo.recipes.data.debian_packages import debian_folder
from zoo.recipes.data.files import held_out

LICENCE = "PSF-2.0; some files carry their own, likewise free, notices"
SOURCES = {
    "library": "Python files of the standard library of CPython",
    "manual": "reStructuredText of the manual of Python, from the Debian package pythonX.Y-doc",
    "topics": "help topics of pydoc",
}
VALID_PERCENT, TEST_PERCENT = 2.0, 2.0


def build(out: Path, cache: Path, manual: bool) -> dict:
    """Write the corpus below `out`; what `corpus.json` holds."""
    library = Path(sysconfig.get_paths()["stdlib"])
    documents, missing = list(library_documents(library)), {}
    licences = {"library": [library / "LICENSE.txt", Path(f"/usr/share/doc/python{_version()}/copyright")]}
    try:
        if not manual:
            raise UserError("not asked for")
        folder = manual_folder(cache)
        documents += manual_documents(folder)
        licences["manual"] = [folder.parents[2] / f"python{_version()}-doc" / "copyright"]
    except UserError as error:
        missing["manual"] = str(error)
        documents += [(f"topics/{name}.txt", text.encode()) for name, text in sorted(topics.items())]
    kept, refused = usable(documents)
    out.mkdir(parents=True, exist_ok=True)
    write_corpus(out, ((split_of(name), name, data) for name, data in kept))
    for source, places in licences.items():
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            shutil.copyfile(found, out / f"LICENCE.{source}.txt")
    corpus = describe(out, kept, refused, missing)
    (out / "corpus.json").write_text(json.dumps(corpus, indent=1) + "\n")
    return corpus


def library_documents(library: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the standard library's files, without what was installed beside it."""
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        # The topics are extracts of the manual: they must not stand on both sides of a split.
        if not {"site-packages", "dist-packages", "pydoc_data"} & set(inside.parts):
            yield f"library/{inside.as_posix()}", path.read_bytes()


def manual_folder(cache: Path) -> Path:
    """Where the manual's text is, installed or unpacked below `cache`."""
    return debian_folder(f"python{_version()}-doc", f"/usr/share/doc/python{_version()}/html/_sources", cache)


def manual_documents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the manual's pages."""
    for path in sorted(folder.rglob("*.rst.txt")):
        yield f"manual/{path.relative_to(folder).as_posix()}", path.read_bytes()


def usable(documents: list[tuple[str, bytes]]) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Documents of UTF-8 text, each content once; and why others were left out."""
    kept, refused, seen = [], {}, {}
    for name, data in documents:
        digest = hashlib.sha256(data).digest()
        if not data.strip():
            refused[name] = "empty"
        elif digest in seen:
            refused[name] = f"the same as {seen[digest]}"
        elif not _is_text(data):
            refused[name] = "not UTF-8"
        else:
            seen[digest] = name
            kept.append((name, data))
    return kept, refused


def split_of(name: str) -> str:
    """The split of a document, by the SHA-256 of its name; see `held_out`."""
    if held_out(name, TEST_PERCENT):
        return "test"
    return "valid" if held_out(name, TEST_PERCENT + VALID_PERCENT) else "train"


def describe(out: Path, kept: list[tuple[str, bytes]], refused: dict[str, str], missing: dict[str, str]) -> dict:
    """Documents and bytes of each split and source, licences, digests of the shards, and what was left out."""
    splits: dict[str, dict] = {}
    for name, data in kept:
        entry = splits.setdefault(split_of(name), {}).setdefault(name.partition("/")[0], {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += len(data)
    present = {source for sources in splits.values() for source in sources}
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "total": {
            split: {key: sum(entry[key] for entry in sources.values()) for key in ("documents", "bytes")}
            for split, sources in splits.items()
        },
        "splits": splits,
        "credits": [
            {"source": source, "credit": f"{text}, by the Python Software Foundation", "license": LICENCE}
            for source, text in SOURCES.items()
            if source in present
        ],
        "shards": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*-*.bytes"))},
        "missing": missing,
        "refused": {"count": len(refused), "reasons": refused},
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/text"), help="folder of the corpus")
    parser.add_argument("--cache", type=Path, default=Path(".cache/debian"), help="folder for downloaded packages")
    parser.add_argument(
        "--manual", action=argparse.BooleanOptionalAction, default=True, help="the manual; else pydoc's topics of it"
    )
    options = parser.parse_args(arguments)
    try:
        corpus = build(options.out, options.cache, options.manual)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for split, total in sorted(corpus["total"].items()):
        print(f"{split:>6}: {total['documents']:5} documents, {total['bytes'] / 1e6:6.2f} MB")
    for source, reason in corpus["missing"].items():
        print(f"without the {source}: {reason}", file=sys.stderr)
    return 0


def _version() -> str:
    return "{}.{}".format(*platform.python_version_tuple())


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
