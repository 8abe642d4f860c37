"""What a step takes, told apart from steps that held different things: a fixed part, rows, tokens of prompts."""

import random
from collections.abc import Callable

import pytest

from app.engine.step_time import StepTime

Seconds = Callable[[int, int], float]


def line(fixed: float, row: float, prompt: float) -> Seconds:
    return lambda num_prompt, num_rows: fixed + row * num_rows + prompt * num_prompt


def learned(time: StepTime, seconds: Seconds, steps: list[tuple[int, int]]) -> StepTime:
    """After steps of (tokens of prompts, rows that decode)."""
    for num_prompt, num_rows in steps:
        time.note(num_prompt, num_rows, seconds(num_prompt, num_rows))
    return time


def mixed(count: int) -> list[tuple[int, int]]:
    source = random.Random(0)
    return [(source.choice([0, 20, 200]), source.randint(1, 16)) for _ in range(count)]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_what_is_fixed_and_what_prompts_and_rows_take(scale: float) -> None:
    """However fast the model."""
    time = learned(StepTime(), line(0.045 * scale, 0.001 * scale, 0.002 * scale), mixed(200))
    assert time.prompt == pytest.approx(0.002 * scale, rel=0.02)
    assert time.without_prompts(16) == pytest.approx(0.061 * scale, rel=0.02)
    assert time.without_prompts(0) == pytest.approx(0.045 * scale, rel=0.1)


def test_what_is_fixed_is_not_the_prompts_where_no_step_is_without_them() -> None:
    """Pieces of one size beside a number of rows that changes, as in a queue that is never empty."""
    source = random.Random(0)
    steps = [(256, 0), (200, 0)] + [(source.randint(12, 40), source.randint(2, 16)) for _ in range(200)]
    time = learned(StepTime(), line(0.045, 0.002, 0.002), steps)
    assert time.prompt == pytest.approx(0.002, rel=0.1), "not the seventh of 100 ms"


def test_one_step_is_all_its_prompts() -> None:
    time = learned(StepTime(), line(0.5, 0.0, 0.0), [(500, 0)])
    assert time.prompt == pytest.approx(0.001)
    assert time.without_prompts(0) == 0.0


def test_a_few_slow_steps_change_little() -> None:
    source, seconds = random.Random(0), line(0.045, 0.001, 0.002)

    def disturbed(num_prompt: int, num_rows: int) -> float:
        return seconds(num_prompt, num_rows) * (8.0 if source.random() < 0.05 else 1.0)

    time = learned(StepTime(), disturbed, mixed(400))
    assert time.prompt * 200 + time.without_prompts(8) == pytest.approx(seconds(200, 8), rel=0.25)


def test_a_machine_that_has_become_slower_makes_prompts_slower_that_nobody_has_sent_since() -> None:
    time = learned(StepTime(), line(0.045, 0.001, 0.002), mixed(200))
    learned(time, line(0.135, 0.003, 0.006), [(0, 2)] * 300)
    assert time.without_prompts(2) == pytest.approx(0.141, rel=0.02)
    assert time.prompt == pytest.approx(0.006, rel=0.2)


def test_what_is_not_seen_for_long_stays_known() -> None:
    time = learned(StepTime(), line(0.045, 0.001, 0.002), mixed(200))
    learned(time, line(0.045, 0.001, 0.002), [(0, 3)] * 100_000)
    assert time.prompt == pytest.approx(0.002, rel=0.1)


def test_a_step_that_took_no_time_breaks_nothing() -> None:
    time = learned(StepTime(), line(0.0, 0.0, 0.0), [(10, 0), (0, 1), (10, 1)])
    learned(time, line(0.045, 0.001, 0.002), mixed(2000))
    assert time.prompt == pytest.approx(0.002, rel=0.1)


def test_a_slower_machine_slows_even_prompts_that_were_last_sent_long_ago() -> None:
    time = learned(StepTime(), line(0.045, 0.001, 0.002), mixed(200))
    learned(time, line(0.045, 0.001, 0.002), [(0, 3)] * 5000)
    learned(time, line(0.135, 0.003, 0.006), [(0, 3)] * 300)
    assert time.prompt == pytest.approx(0.006, rel=0.2)
