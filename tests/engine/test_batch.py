"""How sequences are grouped for attention."""

from app.engine.grouping import group_by_length


def test_lengths_that_are_alike_share_a_group_and_others_do_not() -> None:
    assert group_by_length([(100, 100), (95, 95), (4, 4), (98, 98), (5, 5)]) == [[0, 3, 1], [4, 2]]
    assert group_by_length([(1, 40), (1, 60), (1, 50)]) == [[1, 2, 0]], "too little padding for a second call"
    assert group_by_length([]) == []
