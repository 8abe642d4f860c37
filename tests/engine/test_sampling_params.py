"""What is refused, and that the refusal names the field."""

import math
from typing import Any

import msgspec
import pytest

from app.engine.sampling_params import ParameterError, SamplingParams


@pytest.mark.parametrize(
    ("param", "value"),
    [
        *(("max_tokens", value) for value in (0, -1, 1.5, True, "3")),
        *(("min_tokens", value) for value in (-1, 300)),
        *(("temperature", value) for value in (-0.1, 2.1, math.nan, math.inf, "1", None, True)),
        *(("top_k", value) for value in (-2, 1.0)),
        *(("top_p", value) for value in (0.0, 1.01, -1, math.nan)),
        *(("min_p", value) for value in (-0.1, 1.1)),
        *(("repetition_penalty", value) for value in (0, -1, math.inf)),
        *(("presence_penalty", value) for value in (-2.1, 2.1)),
        *(("frequency_penalty", value) for value in (-2.1, 2.1)),
        *(("seed", value) for value in (2**63, -(2**63) - 1, 0.5)),
        *(("stop_token_ids", value) for value in ((-1,), ("a",), tuple(range(65)))),
        *(("logit_bias", value) for value in ({-1: 0.0}, {1: 101.0}, {1: math.nan}, {"a": 1.0})),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
        *(("forced_bos_token", value) for value in (-1, 1.0, "a")),
        *(("suppress_token_ids", value) for value in ((-1,), (None,), tuple(range(1025)))),
        *(("no_repeat_ngram_size", value) for value in (-1, 65, 1.0, True, "3")),
        *(("bad_words", value) for value in (((5,),), ((),), ((-1, 2),), ((1, "a"),), ((1, 2),) * 1025)),
        *(("forced_eos_tokens", value) for value in ((-1,), ("a",), tuple(range(65)))),
        *(("logprobs", value) for value in (-1, 21, 1.0)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(param: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"^{param} ") as refused:
        SamplingParams(**{param: value})
    assert refused.value.param == param


def test_the_edges_are_allowed() -> None:
    SamplingParams(
        max_tokens=1, min_tokens=1, temperature=2, top_k=-1, top_p=1, min_p=1, seed=-(2**63), logprobs=20
    )
    SamplingParams(
        presence_penalty=-2, frequency_penalty=2, logit_bias={0: -100, 5: 100}, stop_token_ids=(0,)
    )


def test_token_ids_are_checked_against_the_vocabulary() -> None:
    params = SamplingParams(logit_bias={9: 1.0, 4: 1.0}, stop_token_ids=(7,))
    params.check_vocabulary(10)
    with pytest.raises(ParameterError, match="logit_bias"):
        params.check_vocabulary(9)
    for wrong in (
        {"stop_token_ids": (10,)},
        {"suppress_token_ids": (3, 10)},
        {"forced_bos_token": 10},
        {"bad_words": ((1, 2), (10, 3))},
        {"forced_eos_tokens": (10,)},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            msgspec.convert(wrong, SamplingParams).check_vocabulary(10)


def test_what_ends_a_sequence() -> None:
    assert SamplingParams(stop_token_ids=(7,)).end_token_ids((2, 3)) == (7, 2, 3)
    assert SamplingParams(stop_token_ids=(7,), ignore_eos=True).end_token_ids((2, 3)) == (7,)


def test_greedy_is_a_temperature_of_nought_or_nearly() -> None:
    assert SamplingParams().is_greedy
    assert SamplingParams(temperature=1e-9).is_greedy
    assert not SamplingParams(temperature=0.01).is_greedy
