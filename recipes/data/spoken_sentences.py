"""Plain English sentences to read aloud: found in free prose, made to one form, and shared out to splits and voices."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator

SHORTEST, LONGEST = 15, 90  # characters
FEWEST_WORDS = 4
LEAST_USE = 3  # a word that all the prose uses less often is a name, a slip, or of another language
HELD_OUT_OF = 40  # one sentence of so many is for validation, another for tests

ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz ,.?!'-")
_SMALL_WORDS = {"a", "i", "o"}
_ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs", "etc", "no", "vol", "prof", "gen", "eg", "ie", "cf"}

# Nobody should hear these by surprise from a demonstration. Stems: "kill" also refuses "killed".
_NOT_TAME = re.compile(
    r"\b(sex|rape|whore|slut|bitch|bastard|fuck|shit|damn|piss|crap|porn|nude|naked|nigg|negro|jew|nazi|hitler|kill|"
    r"murder|suicid|corpse|blood|virgin|penis|vagina|breast|masturbat|orgasm|drug|cocaine|heroin|marijuana|whisk|drunk|"
    r"hell\b|god|christ|jesus|lord|pope|church|muslim|islam|lesbian|homo|gay|queer|women|woman|girl|wife|wives|"
    r"hang(ed|ing)?\b|shoot|shot\b|gun|bomb|torture|slave|retard|idiot|moron|stupid|fool|ass\b|asses|assh|lover|mistress|"
    r"prostitut|adulter|erot|lust|kiss|die[sd]?\b|dying|death|dead)"
)

_MARKUP = (
    (re.compile(r":(?:term|ref|doc|abbr|dfn):`([^`<]+?)\s*(?:<[^>]*>)?`"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}(\w[^*]*)\*{1,2}(?!\w)"), r"\1"),  # emphasis
    (re.compile(r"(?<!\w)_(\w[^_]*)_(?!\w)"), r"\1"),
    (re.compile(r"[\"\u201c\u201d]|``(?= )|(?<= )''"), ""),
    (re.compile(r"[\u2018\u2019]"), "'"),
    (re.compile(r"\s*(?:;|:|\s--?-?\s)\s*"), ", "),
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z'])")
_FIRST_CAPITAL = re.compile(r"^[A-Z][a-z']*[ ,]|^[A-Z][a-z]+-")
_CAPITALS = re.compile(r"[A-Z]{2}|[a-z][A-Z]")


def prose_sentences(text: str) -> Iterator[str]:
    """The sentences of a text that are plain prose, in the form of `normalised`.

    Paragraphs end at empty lines and where the indentation changes. Left out are sentences with digits, brackets, code
    or words in capitals, and what is too short, too long or cut off.
    """
    for paragraph in _paragraphs(text):
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        for piece in _SENTENCE_END.split(paragraph):
            if _FIRST_CAPITAL.match(piece) and not _CAPITALS.search(piece):
                sentence = normalised(piece)
                if is_plain(sentence):
                    yield sentence


def normalised(text: str) -> str:
    """Lower case, single spaces, no space before a mark, no mark twice."""
    text = re.sub(r"\s+", " ", text.strip().lower())
    text = re.sub(r"\s+([,.?!])", r"\1", text)
    return re.sub(r"([,.?!])[,.?!]+", lambda marks: marks[0][-1] if "," in marks[0] else marks[0][0], text)


def is_plain(sentence: str) -> bool:
    """Whether a normalised sentence is one to read aloud: of fit length, of words alone, complete, and tame."""
    spoken = words(sentence)
    return (
        SHORTEST <= len(sentence) <= LONGEST
        and len(spoken) >= FEWEST_WORDS
        and ALPHABET.issuperset(sentence)
        and sentence[-1] in ".?!"
        and spoken[-1] not in _ABBREVIATIONS
        and not re.search(r"[.?!]['a-z]|(?<![a-z])['-]|-(?![a-z])|[.?!] ", sentence)
        and all(len(word) > 1 or word in _SMALL_WORDS for word in spoken)
        and not _NOT_TAME.search(sentence)
    )


def words(sentence: str) -> list[str]:
    """The words of a sentence, as a recogniser of speech writes them."""
    return [word for word in re.sub(r"[^a-z']", " ", sentence.lower()).split() if word.strip("'")]


def of_common_words(sentences: Iterable[str], least_use: int = LEAST_USE) -> list[str]:
    """The sentences, each once, of which every word occurs in at least so many of them."""
    once = {tuple(words(sentence)): sentence for sentence in sentences}
    uses = Counter(word for spoken in once for word in set(spoken))
    return [sentence for spoken, sentence in once.items() if all(uses[word] >= least_use for word in spoken)]


def split_of_sentence(sentence: str) -> str:
    """The split of a sentence, a fixed function of its words, whoever reads it."""
    return {0: "valid", 1: "test"}.get(_number(sentence) % HELD_OUT_OF, "train")


def name_of(sentence: str) -> str:
    """A name for files of the sentence: ten digits that no other sentence has."""
    return f"{_number(sentence):064x}"[:10]


def dealt(sentences: Iterable[str], amounts: dict[str, float]) -> dict[str, list[str]]:
    """Sentences for each reader, none to two of them: as many characters of text as each amount says.

    The order is that of the sentences' digests, so sources are mixed evenly; what is left over is nobody's.
    """
    waiting = iter(sorted(sentences, key=_number))
    shares: dict[str, list[str]] = {}
    for reader, amount in amounts.items():
        shares[reader] = []
        while amount > 0 and (sentence := next(waiting, None)) is not None:
            shares[reader].append(sentence)
            amount -= len(sentence)
    return shares


def without_leaks(utterances: list[tuple[str, str]]) -> list[int]:
    """Places of the utterances `(split, text)` to keep: no words of a test are validated on or trained on."""
    tested = {tuple(words(text)) for split, text in utterances if split == "test"}
    held_out = tested | {tuple(words(text)) for split, text in utterances if split == "valid"}
    forbidden = {"train": held_out, "valid": tested, "test": set()}
    return [k for k, (split, text) in enumerate(utterances) if tuple(words(text)) not in forbidden[split]]


def _number(sentence: str) -> int:
    return int(hashlib.sha256(" ".join(words(sentence)).encode()).hexdigest(), 16)


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    indent = 0
    for line in [*text.expandtabs().splitlines(), ""]:
        here = len(line) - len(line.lstrip())
        if lines and (not line.strip() or abs(here - indent) > 2):
            yield " ".join(lines)
            lines = []
        if line.strip():
            lines.append(re.sub(r"^(?:[*#-]|\(?\d+[.)])\s+", "", line.strip()))
            indent = here
