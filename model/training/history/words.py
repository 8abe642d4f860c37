"""Text as words: one vocabulary, WikiText-2's own, for every language model that is compared."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.training import data as files

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
Ids = npt.NDArray[np.int64]

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "_": None})
_WORD = re.compile(r"(?<=\w)'(?:s|t|re|ve|ll|d|m)\b|\w+|[^\w\s]")


class Vocabulary:
    """The words of WikiText-2's training text and the end of a line, the most frequent first."""

    def __init__(self, lines: Iterable[Sequence[str]]) -> None:
        """`lines` are the training text's words."""
        counts = Counter(word for line in lines for word in (*line, END_OF_LINE))
        self.words = sorted(counts, key=lambda word: (-counts[word], word))
        self._ids = {word: number for number, word in enumerate(self.words)}
        self._ids.setdefault(UNKNOWN, self._ids[END_OF_LINE])  # only where no word is rare

    def __len__(self) -> int:
        return len(self.words)

    @property
    def end_of_line(self) -> int:
        """What every line ends in, empty ones too."""
        return self._ids[END_OF_LINE]

    def stream(self, lines: Iterable[Sequence[str]]) -> Ids:
        """The lines end to end; a word that is not in the vocabulary is `<unk>`."""
        unknown = self._ids[UNKNOWN]
        ids = [self._ids.get(word, unknown) for line in lines for word in (*line, END_OF_LINE)]
        return np.array(ids, dtype=np.int64)


def wikitext_lines(data: Path, split: str) -> list[list[str]]:
    """WikiText-2 as it is: its words are what stands between spaces, rare ones are `<unk>` already."""
    return [line.split() for line in files.read_lines(data / "text" / f"wikitext-2.{split}.txt.gz")]


def fiction_lines(data: Path) -> list[list[str]]:
    """The books' paragraphs, cut into words as WikiText is."""
    return [fiction_words(paragraph) for book in files.fiction_books(data) for paragraph in book]


def fiction_words(text: str) -> list[str]:
    """WikiText's ways: `well-known` is `well @-@ known`, `didn't` is `didn 't`, quotes and stops stand alone."""
    text = text.translate(_QUOTES).replace("--", "—")
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    return [word for part in text.split() for word in ([part] if part == "@-@" else _WORD.findall(part))]


def article_of_each(lines: Sequence[Sequence[str]]) -> Ids:
    """For each word of `Vocabulary.stream(lines)` its article's number: a heading of the first level begins one."""
    numbers, article = [], 0
    for line in lines:
        article += len(line) > 2 and line[0] == line[-1] == "=" != line[1]
        numbers += [article] * (len(line) + 1)
    return np.array(numbers, dtype=np.int64)
