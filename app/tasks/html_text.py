"""The text in a piece of HTML: what may be translated, and the same markup around what it became.

Each run of text between two tags is a text of its own, so a sentence with an inline tag in it is translated in parts;
where a tag would belong in the other language nobody can say without asking the model. Tags, attributes, comments and
what stands in `script`, `style`, `pre`, `code`, `textarea` or `template` come out as they went in.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Linear on any input, which html.parser is not: once a tag has begun the pattern matches, if need be to the end.
_MARKUP = re.compile(
    r"""
      <!--(?:-?>|.*?(?:-->|\Z))
    | <[!?][^>]*+(?:>|\Z)
    | <(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*+)
      (?: =\s*+"[^"]*+(?:"|\Z) | =\s*+'[^']*+(?:'|\Z) | [^>] )*+
      (?:>|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "textarea", "template")
}
"""Elements in which nothing is markup but their own end."""
_KEPT = ("pre", "code")
_BLANKS = re.compile(r"[ \t\r\n\f]+")


@dataclass(frozen=True)
class Markup:
    """`pieces` add up to the HTML; those at `places` are text, `texts` are what these say, without entities and with
    line breaks as the blanks they mean."""

    pieces: Sequence[str]
    places: Sequence[int]
    texts: Sequence[str]

    @classmethod
    def read(cls, source: str) -> "Markup":
        """Any text is HTML; a tag without an end reaches to the end."""
        pieces: list[str] = []
        places: list[int] = []
        depths = dict.fromkeys(_KEPT, 0)
        at = 0
        while match := _MARKUP.search(source, at):
            if match.start() > at and not any(depths.values()):
                places.append(len(pieces))
            pieces += [source[at : match.start()], match[0]]
            at = match.end()
            name, is_end = (match["name"] or "").lower(), bool(match["close"])
            if name in depths:
                depths[name] = max(0, depths[name] + (-1 if is_end else 1))
            elif name in _RAW and not is_end:
                end = _RAW[name].search(source, at)
                pieces.append(source[at : end.start() if end else None])
                at += len(pieces[-1])
        if at < len(source) and not any(depths.values()):
            places.append(len(pieces))
        pieces.append(source[at:])
        texts = [_BLANKS.sub(" ", html.unescape(pieces[place])) for place in places]
        return cls(pieces, places, texts)

    def write(self, texts: Sequence[str]) -> str:
        """The HTML with other texts; one that did not change is left as it was written."""
        pieces = list(self.pieces)
        for place, old, new in zip(self.places, self.texts, texts, strict=True):
            if new != old:
                pieces[place] = html.escape(new, quote=False)
        return "".join(pieces)
