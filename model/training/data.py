"""Reads the prepared data files and cuts examples into batches of like lengths. Knows no model."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = list[str]


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, gzipped or plain, without their line ends."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.rstrip("\n")


def read_tsv(path: Path) -> list[Row]:
    """The rows of a tab-separated file without header."""
    return [line.split("\t") for line in read_lines(path)]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in read_lines(path)]


def translation_pairs(data: Path, language: str, split: str) -> list[tuple[str, str]]:
    """(English, `language`) sentence pairs. `split` is train, dev or the stem of a test file such as
    `tatoeba-test-v2020-07-28`."""
    stem = f"tatoeba.en-{language}.{split}" if split in ("train", "dev") else f"{split}.en-{language}"
    return [(row[0], row[1]) for row in read_tsv(data / "mt" / f"{stem}.tsv.gz")]


_ARTICLE = re.compile(r"^ = [^=].* = $")
_WIKITEXT_MARKS = [
    (re.compile(r" @(.)@ "), r"\1"),
    (re.compile(r" ([.,:;!?%)\]])"), r"\1"),
    (re.compile(r"([(\[$£]) "), r"\1"),
    (re.compile(r" n't\b"), "n't"),
    (re.compile(r" '(s|re|ve|ll|d|m)\b"), r"'\1"),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
    (re.compile(r" – "), "–"),
    (re.compile(r"(\d) –(\d)|(\d)– (\d)"), r"\1\3–\2\4"),
]


def natural_wikitext(line: str) -> str:
    """One line of the word-level WikiText as ordinary prose: marks undone, spaces before stops removed."""
    for pattern, replacement in _WIKITEXT_MARKS:
        line = pattern.sub(replacement, line)
    return line.strip()


def wikitext_articles(data: Path, split: str) -> list[list[str]]:
    """The articles of WikiText-2 as lists of paragraphs in natural spacing, headings left out."""
    articles: list[list[str]] = []
    for line in read_lines(data / "text" / f"wikitext-2.{split}.txt.gz"):
        if _ARTICLE.match(line) or not articles:
            articles.append([])
        text = line.strip()
        if text and not text.startswith("="):
            articles[-1].append(natural_wikitext(line))
    return [article for article in articles if article]


def fiction_books(data: Path) -> list[list[str]]:
    """The public-domain books as lists of paragraphs."""
    return [
        [paragraph for paragraph in book["text"].split("\n") if paragraph.strip()]
        for book in read_jsonl(data / "text" / "public-domain-fiction.jsonl.gz")
    ]


def children_stories(data: Path) -> list[str]:
    """The paragraphs of the TinyStories sample."""
    return [line for line in read_lines(data / "text" / "tinystories-sample.txt.gz") if line.strip()]


Labelled = tuple[str, str]

OUT_OF_SCOPE = "oos"
"""CLINC150's label of what belongs to none of its intents."""


def labelled_texts(data: Path, dataset: str, split: str) -> list[Labelled]:
    """(text, label) pairs of a classification set.

    `dataset` is clinc150, banking77, sentiment-sentences or goemotions-groups (GoEmotions rows that are
    only positive or only negative); `split` is train, dev or test. CLINC150's out-of-scope rows are the
    class `oos`; a set without a dev split gives every tenth training row to dev.
    """
    if dataset == "goemotions-groups":
        rows = read_tsv(data / "cls" / "goemotions.tsv.gz")
        return [(r[1], r[3]) for r in rows if r[0] == split and r[3] in ("positive", "negative")]
    rows = read_tsv(data / "cls" / f"{dataset}.tsv.gz")
    if dataset == "clinc150":
        name = "val" if split == "dev" else split
        return [(r[1], r[2]) for r in rows if r[0] in (name, f"oos_{name}")]
    if split == "test":
        return [(r[1], r[2]) for r in rows if r[0] == "test"]
    train = [(r[1], r[2]) for r in rows if r[0] == "train"]
    is_dev = split == "dev"
    return [pair for index, pair in enumerate(train) if (index % 10 == 9) is is_dev]


def first_of_each_label(rows: Sequence[Labelled], count: int) -> list[Labelled]:
    """At most `count` rows of each label, the first ones, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for text, label in rows:
        seen[label] += 1
        if seen[label] <= count:
            kept.append((text, label))
    return kept


def bucketed_batches(
    lengths: Sequence[tuple[int, ...]], max_tokens: int, max_examples: int, seed: int
) -> list[list[int]]:
    """Batches of example indices, each of like lengths, in shuffled order.

    `lengths[i]` holds the token counts of example i (one a side). A batch pads each side to its longest,
    and its padded size over all sides stays within `max_tokens` (one over-long example makes a batch of
    its own). The same seed gives the same batches.
    """
    random_numbers = random.Random(seed)
    order = list(range(len(lengths)))
    random_numbers.shuffle(order)
    order.sort(key=lambda index: lengths[index][::-1])  # stable: ties stay shuffled
    batches: list[list[int]] = []
    batch: list[int] = []
    widest: tuple[int, ...] = ()
    for index in order:
        grown = tuple(map(max, widest, lengths[index])) if batch else lengths[index]
        if batch and (sum(grown) * (len(batch) + 1) > max_tokens or len(batch) >= max_examples):
            batches.append(batch)
            batch, grown = [], lengths[index]
        batch.append(index)
        widest = grown
    if batch:
        batches.append(batch)
    random_numbers.shuffle(batches)
    return batches
