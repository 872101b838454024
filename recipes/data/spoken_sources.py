"""Where sentences to read aloud come from: WordNet's examples, fortune cookies, Python's manual, and made-up ones."""

import re
from collections.abc import Iterator
from pathlib import Path

from zoo.recipes.data.debian_packages import debian_folder
from zoo.recipes.data.python_text import LICENCE, manual_documents, manual_folder
from zoo.recipes.data.spoken_sentences import is_plain, normalised, of_common_words, prose_sentences
from zoo.recipes.data.synthetic_sentences import sentence

# Cookies of verse, code, pictures, or of subjects that not everybody laughs about are not among them.
COOKIES = (
    "cookie computers education food fortunes goedel humorists kids law literature magic medicine miscellaneous news"
    " paradoxum people pets platitudes science sports startrek tao wisdom work"
).split()
MADE_UP = {"en": 700, "en-telephone": 900}  # sentences of each kind

TEXT_CREDITS = [
    {
        "text": "example sentences of WordNet 3.0",
        "credit": "Princeton University",
        "license": "WordNet 3.0 (permissive)",
        "package": "wordnet-base",
    },
    {
        "text": "sentences of fortune cookies",
        "credit": "collected by Ken Arnold and many others; quotations by their authors",
        "license": "BSD-3-Clause",
        "package": "fortunes, fortunes-min",
    },
    {
        "text": "sentences of Python's manual",
        "credit": "Python Software Foundation",
        "license": LICENCE,
        "package": "pythonX.Y-doc",
    },
]


def gathered(cache: Path) -> list[str]:
    """Every sentence of every source once, in the form of `normalised`, of words that are not rare.

    Raises:
        UserError: A Debian package is neither installed nor to be had.
    """
    found = [
        *wordnet_examples(debian_folder("wordnet-base", "/usr/share/wordnet", cache)),
        *cookies(debian_folder("fortunes", "/usr/share/games/fortunes", cache)),
        *(plain for _, page in manual_documents(manual_folder(cache)) for plain in prose_sentences(page.decode())),
    ]
    return of_common_words([*found, *made_up()])


def wordnet_examples(folder: Path) -> Iterator[str]:
    """The examples in quotation marks behind WordNet's definitions; those without an end get a full stop."""
    for part in ("adj", "adv", "noun", "verb"):
        for line in (folder / f"data.{part}").read_text(encoding="ascii", errors="ignore").splitlines():
            for example in re.findall(r'"([^"]*)"', line.partition("|")[2]):
                if not re.search(r"[A-Z]{2}|[A-Z]\.", example):
                    found = normalised(re.sub(r"\s*[;:,]*$|\s--?\s.*$", "", example).replace(";", ","))
                    ended = found if found.endswith((".", "?", "!")) else found + "."
                    if is_plain(ended):
                        yield ended


def cookies(folder: Path) -> Iterator[str]:
    """The sentences of the cookies of the files that are read to anybody; those not installed are passed over."""
    for name in COOKIES:
        path = folder / name
        if path.is_file():
            for cookie in re.split(r"(?m)^%$", path.read_text(encoding="utf-8", errors="replace")):
                yield from prose_sentences(cookie)


def made_up() -> Iterator[str]:
    """Sentences of random words, and such as telephone exchanges speak."""
    for kind, amount in MADE_UP.items():
        for index in range(amount):
            found = normalised(sentence(kind, f"spoken/{index}").replace(";", ","))
            if is_plain(found):
                yield found
