"""Cuts a text into sentences for translation, keeping every blank and line break between them."""

import re

# An end mark of some script, closing quotes or brackets, then a blank; or an ideographic mark, which needs none.
_END = re.compile(
    r"""(?<=[.!?…])["'”’»)\]]*(?=\s)|(?<=[。！？])[”’」』）]*|(?=[\r\n])""",
)
# Words that end in a full stop and do not end a sentence.
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof st sr jr vs e.g i.e cf gen col sgt capt lt rev hon bzw z.b d.h ca m mme mlle",
    )
)
_BEFORE_NUMBER = frozenset(
    re.findall(r"\S+", "no nos fig vol ch sec p pp art jan feb mar apr jun jul aug sep sept oct nov dec nr")
)
_NEXT = re.compile(r"\s{0,16}(\S)")
_LOOK_BACK = 48  # characters; longer than any abbreviation, and a bound on the work per mark
_LAST_WORD = re.compile(r"([\w.]+)\.[\"'”’»)\]]*$")


def split_sentences(text: str) -> list[str]:
    """Pieces whose concatenation is `text`: sentences, and between them runs of white space.

    A line break always ends a sentence; a full stop does not after a known abbreviation, a single capital letter, or
    where the next word begins with a lower-case letter or the mark stands inside a number.
    """
    pieces, start = [], 0
    for end in _END.finditer(text):
        at = end.end()
        if at <= start or _goes_on(text, max(start, at - _LOOK_BACK), at):
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
    if following[1].islower():
        return True
    word = _LAST_WORD.search(text[start:at])
    if word is None:
        return False
    last = word[1].lower()
    if last in _BEFORE_NUMBER:
        return following[1].isdigit()
    return last in _ABBREVIATIONS or (len(last) == 1 and word[1].isupper() and last != "i")
