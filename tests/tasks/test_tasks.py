"""Small rules of the tasks that no route shows at once."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import numpy as np
import pytest

from app.engine.protocol import TokenLogprobs
from app.engine.sampling_params import SamplingParams
from app.errors import InvalidRequest
from app.tasks.base import cut_ids, softmax
from app.tasks.completion import Completion, likeliest
from app.tasks.concurrency import gather_or_cancel, merge
from app.tasks.sampling import make_options, with_limits
from model.generation_config import GenerationConfig

NOTHING = GenerationConfig()


def test_defaults_come_from_the_request_then_the_checkpoint_then_us() -> None:
    published = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=40, repetition_penalty=1.2, max_length=9
    )
    options = make_options({"top_k": 5, "top_p": None}, published, temperature=0.0, vocab_size=10)
    params = options.params
    assert (params.temperature, params.top_k, params.top_p, params.repetition_penalty) == (0.7, 5, 1.0, 1.2)
    greedy = make_options({}, replace(published, do_sample=False), temperature=0.0, vocab_size=10).params
    assert (greedy.temperature, greedy.top_k, greedy.repetition_penalty) == (0.0, 0, 1.2)
    assert make_options({}, NOTHING, temperature=1.0, vocab_size=10).params.temperature == 1.0


def test_a_checkpoint_s_beams_rest_where_a_request_draws() -> None:
    published = GenerationConfig(num_beams=4, length_penalty=0.6, early_stopping=True)

    def beams(values: dict[str, object], temperature: float = 0.0) -> tuple[int, float, object]:
        params = make_options(values, published, temperature=temperature, vocab_size=10).params
        return params.num_beams, params.length_penalty, params.early_stopping

    assert beams({}) == (4, 0.6, True)
    assert beams({"num_beams": 2, "early_stopping": False}) == (2, 0.6, False)
    assert beams({"num_beams": 1})[0] == 1
    assert beams({"temperature": 0.5})[0] == 1
    assert beams({}, temperature=1.0)[0] == 1, "the route's own default draws"
    assert beams({"num_beams": 3}, temperature=1.0)[0] == 3, "who asks for beams wants no draw"
    assert beams({"regex": "a+"})[0] == 1, "a constraint is not followed by beams"
    assert beams({"prompt_logprobs": 1})[0] == 1, "nor is a prompt told of beside them"
    drawing = replace(published, do_sample=True, temperature=0.7)
    assert make_options({}, drawing, temperature=0.0, vocab_size=10).params.num_beams == 1
    best = make_options({"n": 3}, published, temperature=0.0, vocab_size=10)
    assert (best.n, best.num_sequences, best.params.num_return_sequences) == (3, 1, 3)


def test_what_a_checkpoint_forces_and_forbids_goes_to_the_engine() -> None:
    published = GenerationConfig(
        forced_bos_token_id=7,
        forced_eos_token_ids=(2,),
        no_repeat_ngram_size=3,
        bad_words_ids=((4,), (5, 6), (2,), (4,)),
        eos_token_ids=(2,),
    )
    params = make_options({}, published, temperature=0.0, vocab_size=10).params
    assert (params.forced_bos_token, params.forced_eos_tokens) == (7, (2,))
    assert (params.suppress_token_ids, params.bad_words) == ((4,), ((5, 6),))
    assert params.no_repeat_ngram_size == 3
    asked = make_options({"no_repeat_ngram_size": 0}, published, temperature=0.0, vocab_size=10).params
    assert asked.no_repeat_ngram_size == 0
    assert make_options({}, NOTHING, temperature=0.0, vocab_size=10).params == SamplingParams(max_tokens=1)


def test_a_limit_below_min_tokens_is_the_client_s_mistake() -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_limits(SamplingParams(max_tokens=10, min_tokens=10), 5, 10)
    assert refused.value.param == "min_tokens"


@pytest.mark.parametrize("key", ["-1", "1.5", "x", "٣ ", "9" * 40, ""])
def test_biases_go_by_token_ids(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_options({"logit_bias": {key: 1.0}}, NOTHING, temperature=0.0, vocab_size=10)
    assert refused.value.param == "logit_bias"


def test_cutting_keeps_the_special_tokens_at_the_end() -> None:
    special = frozenset({2, 3})
    assert cut_ids([2, 5, 6, 7, 3], special, 4) == [2, 5, 6, 3]
    assert cut_ids([2, 5, 3], special, 4) == [2, 5, 3]
    assert cut_ids([5, 6, 7], frozenset(), 2) == [5, 6]


def test_softmax_of_large_logits_is_finite() -> None:
    assert softmax(np.array([1e4, 0.0], dtype=np.float32)).tolist() == [1.0, 0.0]


async def count(stop: int, log: list[str], fail_at: int | None = None) -> AsyncGenerator[int]:
    try:
        for i in range(stop):
            if i == fail_at:
                raise ValueError("no")
            await asyncio.sleep(0)
            yield i
    finally:
        log.append("closed")


def test_merged_streams_give_everything_and_close_when_one_fails() -> None:
    async def collect(*streams: AsyncGenerator[int]) -> list[int]:
        return [item async for item in merge(streams)]

    log: list[str] = []
    assert sorted(asyncio.run(collect(count(3, log), count(2, log)))) == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="no"):
        asyncio.run(collect(count(10**9, log), count(5, log, fail_at=3)))
    assert log == ["closed"] * 4


def test_one_failure_cancels_the_others() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(gather_or_cancel([wait(), fail(), wait()]))
    assert ended == ["cancelled"] * 2


def test_the_best_of_several_is_the_likeliest_a_token_and_an_empty_one_comes_last() -> None:
    def text(name: str, *logprobs: float) -> Completion:
        return Completion(name, [], "stop", [TokenLogprobs(logprob) for logprob in logprobs])

    said = [
        text("a", -1.0, -1.0),
        text("b", -0.6),
        text("c"),
        text("d", -3.0),
        text("e", -0.1),
        text("f", -2.0, 0.0),
    ]
    options = make_options(
        {"n": 2, "best_of": 3, "temperature": 1.0}, NOTHING, temperature=0.0, vocab_size=10
    )
    assert (options.num_sequences, options.params.logprobs) == (3, 0)
    best = likeliest(said, options)
    assert [one.text for one in best] == ["b", "a", "e", "f"]
    assert all(one.logprobs is None for one in best), "only the ranking asked for them"
    told = make_options({"best_of": 3, "logprobs": 1}, NOTHING, temperature=0.0, vocab_size=10)
    assert [one.logprobs for one in likeliest(said, told)] == [said[1].logprobs, said[4].logprobs]
    plain = make_options({"n": 3}, NOTHING, temperature=0.0, vocab_size=10)
    assert likeliest(said, plain) is said
