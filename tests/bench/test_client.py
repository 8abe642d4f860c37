"""What is told of one request, by a server that answers well, badly or not at all."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from app.bench.client import Client, Request
from app.bench.connection import Fault, Site
from app.bench.outcome import REFUSED, Outcome
from app.bench.vocabulary import WORDS, Vocabulary, find_vocabulary
from tests.bench.server import DONE, STREAM, Asked, Writer, chunk, event, piece, serving, stream, told, usage

Answer = Callable[[Asked, Writer], None]


def ask(answer: Answer, times: int = 1, timeout: float = 30.0) -> tuple[list[Outcome], int]:
    """The outcomes, and how many connections were made for them."""

    async def handle(asked: Asked, writer: Writer) -> None:
        answer(asked, writer)

    async def run(site: Site) -> list[Outcome]:
        client = Client(site, timeout=timeout)
        outcomes = [await client.ask("/v1/completions", Request({"prompt": "ü"}, 5, 3)) for _ in range(times)]
        client.close()
        return outcomes

    with serving(handle) as site:
        return asyncio.run(run(Site("http", "127.0.0.1", site.port))), site.connections


def one(content: bytes, *, closes: bool = False) -> Outcome:
    """Of an answer with these bytes."""

    def answer(asked: Asked, writer: Writer) -> None:
        assert asked.body == {"prompt": "ü"}
        writer.write(content)
        if closes:
            writer.close()

    [outcome], _ = ask(answer)
    return outcome


WHOLE = [piece("Grü"), piece("ße"), piece("", finish_reason="length"), usage(7, 6), DONE]


def test_a_stream_is_counted_by_its_usage_and_timed_by_its_pieces() -> None:
    outcome = one(stream(WHOLE))
    assert outcome.failure is None
    assert (outcome.counted_prompt_tokens, outcome.counted_output_tokens) == (7, 6)
    assert len(outcome.pieces) == 2
    assert outcome.planned == outcome.sent <= outcome.pieces[0] <= outcome.pieces[1] <= outcome.end


def test_without_usage_pieces_are_counted_and_the_prompt_is_as_it_was_meant() -> None:
    outcome = one(stream([WHOLE[0], WHOLE[1], WHOLE[2], DONE]))
    assert (outcome.prompt_tokens, outcome.output_tokens) == (None, None)
    assert (outcome.counted_prompt_tokens, outcome.counted_output_tokens) == (5, 2)


def test_the_numbers_do_not_depend_on_how_a_stream_is_cut() -> None:
    content = b"".join(WHOLE)
    for size in (1, 2, 3, 7, 50):
        cut = [content[start : start + size] for start in range(0, len(content), size)]
        outcome = one(stream(cut))
        assert (outcome.failure, len(outcome.pieces), outcome.output_tokens) == (None, 2, 6)


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        ([event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})], 0),
        ([event({"choices": [{"delta": {"content": "a"}}]})], 1),
        ([event({"choices": [{"delta": {"reasoning_content": "a"}}]})], 1),
        ([event({"results": [{"text": "a"}]}), event({"translations": [{"text": "b"}]})], 2),
        ([event({"choices": []})], 0),
    ],
)
def test_pieces_are_events_with_text_in_them(events: Sequence[bytes], pieces: int) -> None:
    outcome = one(stream([*events, DONE]))
    assert (outcome.failure, len(outcome.pieces)) == (None, pieces)


def test_a_stream_may_end_with_a_finish_reason_alone() -> None:
    assert one(stream(WHOLE[:3])).failure is None


@pytest.mark.parametrize(
    ("content", "failure", "words"),
    [
        (stream(WHOLE[:2]), "closed", "without its last event"),
        (STREAM + chunk(WHOLE[0]), "closed", "in the middle"),
        (b"", "closed", "without an answer"),
        (stream([WHOLE[0], event({"error": {"message": "it broke"}}), DONE]), "error event", "it broke"),
        (stream([b"data: {no json}\n\n"]), "protocol", "{no json}"),
        (told([1]), "protocol", "no JSON object"),
        (b"220 smtp\r\n", "protocol", "220 smtp"),
        (told({"error": {"message": "too  much"}}, "429 Too Many Requests"), REFUSED, "too much"),
        (told({"error": "our fault"}, "500 Internal Server Error"), "HTTP 500", "our fault"),
        (told({"detail": "no such thing"}, "404 Not Found"), "HTTP 404", "no such thing"),
        (told({"message": "busy"}, "503 Service Unavailable"), "HTTP 503", "busy"),
    ],
)
def test_what_failed_is_told_by_its_kind_and_the_server_s_words(
    content: bytes, failure: str, words: str
) -> None:
    outcome = one(content, closes=True)
    assert outcome.failure == failure
    assert words in outcome.message
    assert outcome.end >= outcome.sent


def test_a_refusal_keeps_its_connection_and_tells_how_long_to_wait() -> None:
    outcomes, connections = ask(
        lambda asked, writer: writer.write(told({"error": "full"}, "429 Slow", "Retry-After: 2")), times=3
    )
    assert [one.retry_after for one in outcomes] == [2.0] * 3
    assert connections == 1


def test_a_date_to_retry_after_is_passed_over() -> None:
    outcome = one(told({}, "429 Slow", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"))
    assert (outcome.failure, outcome.retry_after) == (REFUSED, None)


def test_a_connection_is_kept_after_whole_answers_and_not_after_others() -> None:
    def answer(asked: Asked, writer: Writer) -> None:
        writer.write(STREAM + chunk(WHOLE[0]) if asked.number == 1 else stream(WHOLE))
        if asked.number == 1:
            writer.close()

    outcomes, connections = ask(answer, times=4)
    assert [one.failure for one in outcomes] == [None, "closed", None, None]
    assert connections == 2


def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    [outcome], _ = ask(lambda asked, writer: None, timeout=0.05)
    assert (outcome.failure, outcome.message) == ("timeout", "no whole answer within 0.05 s")


def test_a_stream_that_stalls_is_given_up_and_left() -> None:
    [first, second], connections = ask(
        lambda asked, writer: writer.write(STREAM + chunk(WHOLE[0])), times=2, timeout=0.05
    )
    assert first.failure == second.failure == "timeout"
    assert connections == 2


def test_an_answer_that_is_not_streamed_has_an_end_and_no_pieces() -> None:
    outcome = one(told({"choices": [{"text": "abc"}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}))
    assert (outcome.failure, outcome.ttft, outcome.counted_output_tokens) == (None, None, 2)


def vocabulary(count: Callable[[Asked], int | None]) -> tuple[Vocabulary, list[str]]:
    """What is found out of a server that counts so, where it counts at all; and the words that were asked of it."""

    async def handle(asked: Asked, writer: Writer) -> None:
        number = count(asked)
        writer.write(told({}, "404 Not Found") if number is None else told({"tokens": [1] * number}))

    async def run(port: int) -> Vocabulary:
        client = Client(Site("http", "127.0.0.1", port))
        try:
            return await find_vocabulary(client, "m")
        finally:
            client.close()

    with serving(handle) as site:
        found = asyncio.run(run(site.port))
    return found, [asked.path for asked in site.asked]


def test_words_that_are_one_token_each_are_found_by_the_server_s_tokenizer() -> None:
    def count(asked: Asked) -> int | None:
        """Words with more than four letters are two tokens; two are put around each text."""
        if asked.path != "/tokenize" or "prompt" not in asked.body:
            return None
        assert asked.body["model"] == "m"
        return 2 + sum(1 + (len(word) > 4) for word in asked.body["prompt"].split())

    found, paths = vocabulary(count)
    short = tuple(sorted(word for word in WORDS if len(word) <= 4))
    assert found.words == short
    assert (found.overhead, found.is_counted) == (2, True)
    assert paths[0] == "/v1/tokenize"


@pytest.mark.parametrize("number", [None, 3])
def test_without_a_tokenizer_that_helps_words_are_taken_as_tokens(number: int | None) -> None:
    found, _ = vocabulary(lambda asked: number)
    assert (found.words, found.overhead, found.is_counted) == (WORDS, 0, False)


def test_a_call_beside_the_measurement_tells_what_is_wrong() -> None:
    async def handle(asked: Asked, writer: Writer) -> None:
        writer.write(told({"error": {"message": "no key"}}, "401 Unauthorized"))

    async def run(port: int) -> None:
        client = Client(Site("http", "127.0.0.1", port))
        try:
            await client.call("GET", "/v1/models")
        finally:
            client.close()

    with serving(handle) as site, pytest.raises(Fault, match="no key") as raised:
        asyncio.run(run(site.port))
    assert raised.value.kind == "HTTP 401"
