"""Cuts a text into sentences for translation, keeping every blank and line break between them. Rules and tables only.

In doubt two sentences stay one: a model translates two at once better than two halves of one.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOPS = ".!?…‽؟"
"""Marks that end a sentence where a blank follows."""
_FULL_STOPS = "。！？｡।॥۔։።។။"
"""Marks that end one whatever follows: of Chinese and Japanese, Hindi, Urdu, Armenian, Amharic, Khmer, Burmese."""
_CLOSING = "\"'”’“»›«‹)\\]"
_WIDE_CLOSING = "”’」』）】》\"'"
_BULLETS = "-*•‣▪◦·–—"

_END = re.compile(
    rf"""
      ^[ \t]*+ (?P<marker> [{_BULLETS}] | \(?\d{{1,3}}[.)] ) (?=[ \t])  # what a line of a list begins with
    | (?<=[{_STOPS}]) [{_CLOSING}]*+ (?:\s?[»›](?!\w))? (?=\s)           # French sets a blank before its »
    | (?<=[{_FULL_STOPS}]) [{_WIDE_CLOSING}]*+
    | (?=[\r\n])
    """,
    re.VERBOSE | re.MULTILINE,
)

# Words that end in a full stop, stand before others, and so do not end a sentence; lower-cased, without the stop.
_ABBREVIATIONS = {
    "en": _words(
        "mr mrs ms dr prof st sr jr vs cf gen col sgt capt lt rev hon messrs mt ft viz al ed eds dept"
    ),
    "de": _words(
        "bzw ca hr fr frl geb gest ggf evtl inkl exkl vgl sog bspw usf dipl ing mag hl bes allg str"
    ),
    "fr": _words("m mm mme mlle mgr me cie ex env av apr bd boul éd prés"),
    "es, it, pt, nl": _words("sra srta dra dña ud uds sig dott ing avv exmo dhr mevr drs ir excl"),
    "ru, uk": _words("ул им проф акад доц гр тов см св обл просп пр пер корп напр вул ім"),
    "hi": _words("डॉ प्रो"),
}
_BEFORE_WORD = frozenset().union(*_ABBREVIATIONS.values())
# ... those that only do so before a number: "no. 7", but "The answer is no. We left."
_BEFORE_NUMBER = _words(
    "no nos fig figs vol ch sec p pp art jan feb mar apr jun jul aug sep sept oct nov dec nr abs bd kap tab abb núm "
    "pág стр рис гл табл тел ст п"
)
# What a number with a full stop belongs to in German: "am 3. Oktober", "im 19. Jahrhundert".
_AFTER_ORDINAL = _words(
    "januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert "
    "jahrhunderts jh jahrtausend weltkrieg weltkriegs weltkrieges klasse stock platz runde auflage"
    " lebensjahr geburtstag"
)
_ENDS_ALL_THE_SAME = _words("a.m p.m")
_GOES_ON_AFTER_QUOTE = "と"  # Japanese: 「行くぞ！」と言った

_NEXT = re.compile(r"\s{0,16}(\w{1,24}|\S)")
_LOOK_BACK = 48  # characters; longer than any abbreviation, and a bound on the work per mark
_LAST_WORD = re.compile(rf"([^\s\"'(\[{{«»„“”‘’–—]+)\.[{_CLOSING}]*$")
_INITIALS = re.compile(r"[^\W\d_](?:\.-?[^\W\d_])*")

# Where a sentence that is too long for a model is cut, best first: between clauses, between phrases, between words.
_BORDERS = (
    re.compile(r"(?<=[;:؛–—])\s|(?<=[；：])"),
    re.compile(r"(?<=[,،])\s|(?<=[，、])"),
    re.compile(r"\s"),
)


def split_sentences(text: str) -> list[str]:
    """Pieces whose concatenation is `text`: sentences, and between them runs of white space, bullets and numbering.

    A line break always ends a sentence. A full stop does not after a known abbreviation, an initial, or where the next
    word begins with a lower-case letter or the mark stands inside a number.
    """
    pieces, start = [], 0
    for end in _END.finditer(text):
        at = end.end()
        if at <= start:
            continue
        if end["marker"] is None and _goes_on(text, max(start, at - _LOOK_BACK), at):
            continue
        pieces += trim(text[start:at])
        start = at
    return pieces + trim(text[start:])


def trim(text: str) -> list[str]:
    """Leading white space, what it stands around, trailing white space; empty ones left out."""
    body = text.strip()
    if not body:
        return [text] if text else []
    start = text.index(body)
    parts = (text[:start], body, text[start + len(body) :])
    return [part for part in parts if part]


def halve(sentence: str) -> list[str]:
    """Pieces whose concatenation is `sentence`, cut once: at the border between clauses that is nearest to the middle,
    else between phrases, words, or where there is no blank, characters. At least two characters."""
    quarter, middle = len(sentence) // 4, len(sentence) // 2
    at = middle
    for border in _BORDERS:
        places = [match.start() for match in border.finditer(sentence, quarter, len(sentence) - quarter)]
        if places := [place for place in places if 0 < place < len(sentence)]:
            at = min(places, key=lambda place: abs(place - middle))
            break
    return trim(sentence[:at]) + trim(sentence[at:])


def has_letters(text: str) -> bool:
    """Whether there is anything to translate: numbers, symbols and white space come back as they are."""
    return any(character.isalpha() for character in text)


def _goes_on(text: str, start: int, at: int) -> bool:
    """Whether the mark before `at` is not the end of its sentence."""
    if at == len(text) or text[at] in "\r\n":
        return False
    following = _NEXT.match(text, at)
    if following is None:
        return False
    first = following[1][0]
    if first.islower() or first in _STOPS or first in _FULL_STOPS:
        return True
    if first in _GOES_ON_AFTER_QUOTE and text[at - 1] in "」』":
        return True
    word = _LAST_WORD.search(text[start:at])
    return word is not None and _is_abbreviation(word[1], following[1])


def _is_abbreviation(word: str, following: str) -> bool:
    """Whether a word with a full stop behind it goes on with the one that follows."""
    last = word.lower().lstrip(".")
    if last in _ENDS_ALL_THE_SAME or word == "I":
        return False
    if last in _BEFORE_NUMBER and following[0].isdigit():
        return True
    if last.isdigit() and len(last) <= 2:
        return following.lower() in _AFTER_ORDINAL
    # "J. R. R.", "U.S.", "z. B.": single letters
    return last in _BEFORE_WORD or _INITIALS.fullmatch(last) is not None
