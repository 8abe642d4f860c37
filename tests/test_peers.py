"""What benchmarks give to other engines, and how they speak to their processes."""

import sys

import pytest

from benchmarks.line_process import LineProcess
from benchmarks.peers.engines.lines import BATCH_TOKENS, by_length, in_batches, padded
from benchmarks.peers.offline import ROWS
from benchmarks.peers.short import SHORT

SPEAKER = """
from benchmarks.peers.engines.lines import answer
print("an engine talks")
def work(command):
    print("and talks", command["new"])
answer({"encode": work, "generate": work})
"""


def test_batches_by_length_have_every_text_once_and_are_no_larger_than_allowed() -> None:
    texts = [[number] * (1 + number * 37 % 300) for number in range(200)]
    batches = by_length(texts)
    assert sorted(text for batch in batches for text in batch) == sorted(texts)
    sizes = [len(batch) * max(map(len, batch)) for batch in batches]
    assert max(sizes) <= BATCH_TOKENS
    assert min(sizes[:-1]) > BATCH_TOKENS / 2
    assert [len(text) for batch in batches for text in batch] == sorted(map(len, texts))


def test_a_text_longer_than_a_batch_is_one_by_itself() -> None:
    assert [len(batch) for batch in by_length([[1] * 3000, [1], [1] * 2999])] == [1, 1, 1]


def test_cut_and_filled() -> None:
    assert in_batches([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert padded([[7], [8, 9]], 3) == ([[7, 3], [8, 9]], [[1, 0], [1, 1]])


def test_an_engine_may_talk_and_its_end_is_told() -> None:
    with LineProcess([sys.executable, "-c", SPEAKER]) as process:
        assert 0 <= process.ask({"generate": [[1]], "new": 3}) < 60
        assert 0 <= process.ask({"encode": [[1]], "new": 4}) < 60
        with pytest.raises(RuntimeError, match="ended"):
            process.ask({"encode": [[1]]})


def test_each_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(0 <= row.must <= row.aim for row in ROWS)


def test_the_short_form_has_each_row_that_it_names() -> None:
    for begin in SHORT:
        assert len([row for row in ROWS if row.name.startswith(begin)]) == 1, begin
