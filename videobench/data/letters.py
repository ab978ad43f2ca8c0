"""Read the option letter from a reply, or report it as unreadable; never guess.

Two kinds of evidence count: a letter used as a label ("B", "(B) Trees", "Option B") or called the answer ("the answer
is B"), and an option's text as the whole reply or as one of its sentences. All evidence must point to the same letter;
a second letter ("A, B", "B. The answer is C", B's letter with C's text) makes the reply unreadable. In a reply that
discusses options ("A: not supported. B: supported.") labels do not count: it must also say which one is the answer.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice

from videobench.data.dataset import LETTERS

# Replies name the letter at the beginning or the end. The middle of a longer reply, which no model of this benchmark
# gives, is skipped to bound the time.
MOST_CHARACTERS = 8192
MOST_STATEMENTS = 20  # "the answer is B": further ones are ignored

CHINESE_STOPS = {0x3002: ".", 0x3001: ","}  # NFKC does not convert these two
SPECIAL_TOKENS = re.compile(
    r"<\|im_start\|>\s*assistant|<\|\w+\|>|</?s>|<unk>|<pad>|\[/?INST\]|^\s*ASSISTANT\s*:", re.I
)
MARKUP = re.compile(r"\*+|__+|`+|\\boxed|\\text|\$|[{}\"]|(?<!\w)'|'(?!\w)|^\s*#+\s")

# A letter is a label if what follows can follow a label. A capital that begins a phrase ("A man", "C major", "A or B",
# "A.M.") is a word; a lower-case letter is a label only at the end, or before a dot or bracket.
ABBREVIATION = r"(?!\.[A-Za-z]\b)"
REASON = r"\s+(?:because|since|as|which|is\s+the|is\s+correct|is\s+right)\b"
GOES_ON = rf"(?=\s*$|\s*\n|\s*[.:;,!)\]]|\s+[-\u2013\u2014]\s|{REASON})"
LETTER = rf"[(\[]?\s*(?:([A-F])\b{ABBREVIATION}{GOES_ON}|([a-f])(?=\s*$|\s*[.)\]]+(?:\s|$)))[\s.:;,!)\]]*"
NOUN = r"(?i:\b(?:answer|option|choice|response|letter)\b)"
LABEL = re.compile(rf"\s*(?:(?i:(?:the\s+)?(?:(?:correct|right|best)\s+)?){NOUN}\s*:?\s*|选项\s*)?{LETTER}")
VERB = r"(?i:\s(?:is|would\s+be|should\s+be|must\s+be))"
STATEMENT = re.compile(
    rf"(?:{NOUN}[^.\n]{{0,60}}?{VERB}\s*:?|{NOUN}\s*[:=]|(?i:\bit(?:\s+is|'s))"
    rf"|(?i:\bI(?:'d|\s+would)?\s+(?:choose|select|pick|go\s+with))|(?i:\b(?:so|thus|hence|therefore),?\s)"
    rf"|答案\s*(?:应该?)?[是为]?\s*:?|正确选项\s*[是为]?\s*:?|选项\s*[是为]|(?<!不)选择?)"
    rf"\s*(?:(?i:the\s+)?{NOUN}\s*|选项\s*)?{LETTER}"
)
CALLED_RIGHT = re.compile(
    rf"(?:{NOUN}\s*[(\[]?([A-F])[)\]]?\s+is\s+(?:the\s+)?(?:correct|right|best|closest)"
    rf"|[(\[]?\b([A-F])[)\]]?\s+is\s+the\s+(?:correct|right|best|closest)\s+{NOUN})"
)
# In English and Chinese: a label that is rejected or taken back; other letters that are discussed after it.
VERBS = r"(?:is|are|was|were|seems|looks|does|has|shows|can|could|would|should|cannot|isn't|doesn't)"
ADVERBS = r"(?:(?:be|clearly|the|an?)\s+)*"
FIT = (
    r"(?:right|correct|true|accurate|best|good|answer|option|choice"
    r"|supported|shown|visible|seen|present|mentioned|possible|likely|consistent)"
)
REFUSED = re.compile(
    rf"(?i:(?:{VERBS}\s+)?{ADVERBS}(?:not\s*[.;]|not\s+{ADVERBS}{FIT}\b"
    r"|(?:wrong|incorrect|unsupported|unlikely|excluded|eliminated|ruled\s+out)\b))"
    r"|[是并]*(?:错|有误|不[对是]|不正确|不准确|不符|不支持|不成立|不可能)|可?以?排除"
)
TAKEN_BACK = re.compile(
    r"(?i:(?:^|[.!?\n])\s*(?:(?:oh|no|hmm)\b[,.]?\s*)?(?:wait|actually|correction|on\s+second\s+thought)\b"
    r"|\b(?:that's|that\s+is)\s+(?:wrong|incorrect|not\s+right|not\s+correct|a\s+mistake)\b)|等等|等一下|更正"
)
VERB_BEHIND = re.compile(rf"\s+(?={VERBS}\b)")
DISCUSSED = re.compile(
    r"(?:^|[.!?;,:\n])\s*(?:-\s*)?(?:(?i:option|choice|answer)\s+|选项\s*)?"
    rf"([A-F])(?=[.:)]|\s[-\u2013\u2014]\s|{VERB_BEHIND.pattern})|[(\[]([A-F])[)\]]"
)
LETTER_AND_TEXT = re.compile(r"\s*[(\[]?([A-Fa-f])[)\]]?[.:,\s-]*(.+)", re.S)
TEXT_AND_LETTER = re.compile(r"(.+?)\s*[(\[]([A-F])[)\]][\s.]*$", re.S)
PREAMBLE = re.compile(rf"^.*?{NOUN}(?:[^.\n:]{{0,60}}?{VERB}\s*:?|\s*:)\s*(.+)$", re.S)
LISTED = re.compile(r"\b([a-f])[.):]\s*")
LINK = re.compile(r"((?i:or|and)\b|[-\u2013\u2014/&])?\s*")  # between two letters of a list
DASHES = ("-", "\u2013", "\u2014")
SPACES = re.compile(r"\s{2,}")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def read_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the letter that a reply names, upper case; None if it names several, no letter, or one that is no option.

    `options` maps letters to texts. If it is empty, as when a file does not include them, A to F are accepted."""
    text = _clean(reply)
    letters = options or LETTERS
    bare = text.strip("()[].:,;! \n")
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    whole = set(_letters_of_text(text, options))  # "B.o.B" can be a text: then its B is no label
    found = whole | set(_pairs(text, options))
    label = LABEL.match(text)
    is_discussion = not found and label is not None and _opens_discussion(label, text[label.end() :], options)
    if not whole:
        found |= set(_labels(None if is_discussion else label, text, options))
    if not found and not is_discussion:
        listed = set() if REFUSED.search(text) else set(_listed_pairs(text, options))
        found = listed | set(_sentences(text, options))
    letter = found.pop() if len(found) == 1 else ""
    return letter if letter and letter in letters else None


def _clean(reply: str) -> str:
    if len(reply) > MOST_CHARACTERS:
        reply = f"{reply[: MOST_CHARACTERS // 2]}\n{reply[-MOST_CHARACTERS // 2 :]}"
    text = SPECIAL_TOKENS.sub(" ", unicodedata.normalize("NFKC", reply)).translate(CHINESE_STOPS)
    text = MARKUP.sub("", text.replace("\u201c", '"').replace("\u201d", '"').replace("\u2019", "'")).strip()
    return SPACES.sub(lambda run: "\n" if "\n" in run[0] else " ", text)  # long runs would be slow


@lru_cache(maxsize=1 << 17)  # holds all option texts of the benchmark, which are compared at least twice
def _plain(text: str) -> str:
    """Normalise a text for comparison: no case, no extra spaces, no punctuation at the ends."""
    return " ".join(_clean(text).casefold().split()).strip(" .,;:!?'")


def _letters_of_text(text: str, options: Mapping[str, str]) -> list[str]:
    """Return the letters whose option is this text; several if options are equal."""
    plain = _plain(text)
    return [letter for letter, option in options.items() if plain and _plain(option) == plain]


def _opens_discussion(label: re.Match[str], rest: str, options: Mapping[str, str]) -> bool:
    """Whether the label is rejected ("(A) is not right"), taken back ("A. Wait"), or followed by a remark other than
    its option's text and then another letter ("A: no grass is seen. B: trees are")."""
    letter = (label[1] or label[2]).upper()
    own = re.match(re.escape(options.get(letter, "").strip()), rest, re.I)
    behind = rest[own.end() if own else 0 :].lstrip(" .:;-\u2013\u2014")
    if TAKEN_BACK.search(behind) or ("," not in label[0] and REFUSED.match(behind)):
        return True
    if own and own[0]:
        return False
    for match in DISCUSSED.finditer(rest):
        other, verb = match[1] or match[2], VERB_BEHIND.match(rest, match.end())
        if other != letter and other in (options or LETTERS) and not (verb and REFUSED.match(rest, verb.end())):
            return True
    return False


def _labels(label: re.Match[str] | None, text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield the letter of the reply's label, letters that it calls the answer, and later letters that contradict
    them."""
    for match in ([label] if label else []) + list(islice(STATEMENT.finditer(text), MOST_STATEMENTS)):
        letter = (match[1] or match[2]).upper()
        yield letter
        yield from _contradictions(letter, text[match.end() :], options)
    yield from (match[1] or match[2] for match in CALLED_RIGHT.finditer(text))


def _contradictions(letter: str, rest: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield other letters after a label ("A, B", "(A) or (B)", "A. cat B. dog") or another option's text ("B.
    Grass")."""
    sentence = SENTENCE_END.split(rest.strip(), maxsplit=1)[0]
    named = _letters_of_text(sentence, options) or _letters_of_text(rest, options)
    if named and letter not in named:
        yield from named
    link = LINK.match(rest)
    assert link, "the pattern matches the empty text"
    following = None if named else LABEL.match(rest, link.end())
    # After a dash, a reason may begin with a letter: "B - A is wrong".
    if following and not (link[1] in DASHES and rest[following.end() :].strip()):
        yield (following[1] or following[2]).upper()
    yield from (each for each in _listed_pairs(rest, options) if each != letter)


def _pairs(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield the letter of a reply that is a letter with its option's text: "B Trees", "b. trees", "Trees (B)"."""
    for pattern, letter_at, text_at in ((LETTER_AND_TEXT, 1, 2), (TEXT_AND_LETTER, 2, 1)):
        match = pattern.fullmatch(text)
        if match and match[letter_at].upper() in _letters_of_text(match[text_at], options):
            yield match[letter_at].upper()


def _listed_pairs(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield letters that are followed anywhere by a dot and their option's text, as in a reply that repeats options."""
    plain = " ".join(text.casefold().split())
    for match in LISTED.finditer(plain):
        own = _plain(options.get(match[1].upper(), ""))
        if own and plain.startswith(own, match.end()) and not plain[match.end() + len(own) :][:1].isalnum():
            yield match[1].upper()


def _sentences(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield letters whose option text is a whole sentence, or follows "the answer is"."""
    behind = PREAMBLE.match(text)
    if behind and (whole := _letters_of_text(behind[1], options)):
        yield from whole
        text = text[: behind.start(1)]  # an option may contain what looks like the end of a sentence: "Dr . Cooper"
    for sentence in SENTENCE_END.split(text):
        preamble = PREAMBLE.match(sentence)
        for part in (sentence, preamble[1] if preamble else ""):
            yield from _letters_of_text(part, options)
