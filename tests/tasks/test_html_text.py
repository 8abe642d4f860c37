"""What comes out of HTML is its text, and what goes back in leaves all else as it was."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.html_text import Markup

_PIECES = (
    *(
        "<p>",
        "</p>",
        "<b class=x>",
        "</b>",
        "<br/>",
        "<br>",
        "<i title='a > b'>",
        "</i>",
        '<a href="a&amp;b>">',
        "</a>",
    ),
    *(
        "<!-- no <b> -->",
        "<!doctype html>",
        "<pre>",
        "</pre>",
        "<code>",
        "</code>",
        "&amp;",
        "&lt;",
        "&#8364;",
        "&nbsp;",
    ),
    *("<script>if (a<b) x='</p>'</script>", "<style>p > b {}</style>", "<textarea><b></textarea>"),
    *("Hello", " a world ", "\n", "7 > 3", "<3", "&", "ü"),
)


class _Tags(HTMLParser):
    """The standard library's view of the tags and comments."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[tuple[object, ...]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs, self.get_starttag_text()))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append((tag,))

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", data))


def tags(source: str) -> list[tuple[object, ...]]:
    parser = _Tags()
    parser.feed(source)
    parser.close()
    return parser.seen


@given(st.lists(st.sampled_from(_PIECES), max_size=20))
def test_tags_out_are_tags_in_whatever_the_text_becomes(pieces: list[str]) -> None:
    source = "".join(pieces)
    page = Markup.read(source)
    written = page.write([f"<{text}&" for text in page.texts])
    assert tags(written) == tags(source)
    assert page.write(page.texts) == source
    assert len(page.texts) == len(page.places)


@given(st.text(st.sampled_from("<>!/-=\"'& apreb\n"), max_size=60) | st.text(max_size=60))
def test_any_text_is_html_and_comes_back_unchanged(source: str) -> None:
    page = Markup.read(source)
    assert "".join(page.pieces) == source
    assert page.write(page.texts) == source


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("Fish &amp; chips&nbsp;&#8364;", ["Fish & chips\xa0€"]),
        ("<p>One\n  two</p>", ["One two"]),
        ("a <b>big</b> house", ["a ", "big", " house"]),
        ("<pre>no <b>no</b></pre>yes", ["yes"]),
        ("<code>no <code>no</code> no</code>yes</code>yes", ["yes", "yes"]),
        ("<script>'<p>'</SCRIPT >yes", ["yes"]),
        ("<script>no", []),
        ("<!-- no -->yes<!-->yes<!-- no", ["yes", "yes"]),
        ("<a title=it's>yes</a>", ["yes"]),
        ("<a title='>'>yes</a>", ["yes"]),
        ('yes<a title="no', ["yes"]),
        ("1 < 2 > 1 <3", ["1 < 2 > 1 <3"]),
        ("", []),
    ],
)
def test_text_is_what_stands_between_tags(source: str, texts: list[str]) -> None:
    assert Markup.read(source).texts == texts


def test_new_text_is_escaped_and_what_did_not_change_is_left() -> None:
    page = Markup.read("<p>a &copy; b</p> &copy; ")
    assert page.write(['1 < 2 & "3"', page.texts[1]]) == '<p>1 &lt; 2 &amp; "3"</p> &copy; '


def test_hostile_markup_takes_linear_time() -> None:
    for unit in (
        "<",
        "<a ",
        "<a '",
        '<a ="',
        "<!--",
        "<!",
        "</",
        "<pre>",
        "<script>",
        "<script></script ",
        "&",
        "<a = = ",
    ):
        start = time.perf_counter()
        Markup.read(unit * (300_000 // len(unit)))
        assert time.perf_counter() - start < 5, unit
