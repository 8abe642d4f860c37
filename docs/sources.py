"""A hook of the site's builder: what pages link to outside of docs/ becomes pages of the site, too.

In a checkout `../deploy/models.toml` is a file beside docs/; a site has no such neighbour, and where a checkout may be
browsed is not known to it. So a file that is linked to is shown as a page below `source/`, a folder as a list of its
files. Lists, too, become what they are elsewhere: one may follow a paragraph without a blank line.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<=\]\()(\.\./[\w./-]+)(#[\w-]+)?(?=\))")
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LIST_BEHIND_TEXT = re.compile(r"^((?![-*+] |[|#>\s]|\d+\. ).+\n)(?=- )", re.MULTILINE)
_HEAD = "---\nsearch: {exclude: true}\n---\n"
_LANGUAGES = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".tpl": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of all that is linked to."""
    root = Path(config.docs_dir).parent
    pages = list(files.documentation_pages())
    linked = {path for page in pages for path in _linked(page.content_string, page.src_uri)}
    for path in sorted({*linked, *(one for folder in linked for one in _below(root, folder))}):
        content = _folder(root, path) if (root / path).is_dir() else _file(root / path, path)
        files.append(File.generated(config, _uri(path), content=_HEAD + content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points its links there, and parts lists from the text before them."""
    here = page.file.src_uri
    folder = posixpath.dirname(here)

    def moved(link: re.Match[str]) -> str:
        path = _outside(link[1], here)
        return link[0] if path is None else posixpath.relpath(_uri(path), folder)

    parts = _FENCED.split(_LINK.sub(moved, markdown))
    parts[::2] = [_LIST_BEHIND_TEXT.sub(r"\1\n", text) for text in parts[::2]]
    return "".join(parts)


def _linked(markdown: str, page: str) -> Iterator[str]:
    for link, _ in _LINK.findall(markdown):
        path = _outside(link, page)
        if path is not None:
            yield path


def _outside(link: str, page: str) -> str | None:
    """The path from the checkout's root of what the link on that page means; None within docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def _below(root: Path, path: str) -> Iterator[str]:
    for one in sorted((root / path).rglob("*")):
        if one.is_file():
            yield str(one.relative_to(root))


def _uri(path: str) -> str:
    return f"source/{path}.md"


def _folder(root: Path, path: str) -> str:
    names = [posixpath.relpath(one, path) for one in _below(root, path)]
    base = posixpath.basename(path)
    return "\n".join([f"# {path}", "", *(f"- [{name}]({base}/{name}.md)" for name in names), ""])


def _file(place: Path, path: str) -> str:
    """Raises FileNotFoundError for a link to nothing, which ends the build."""
    language = _LANGUAGES.get(place.suffix, "text")
    return f"# {path}\n\n~~~~{language}\n{place.read_text(encoding='utf-8')}\n~~~~\n"
