"""The benchmarks' own parts: seeded work, the arithmetic of claims, the small HTTP client."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from benchmarks import steps
from benchmarks.__main__ import BENCHMARKS, every_name
from benchmarks.connection import Body, send_all
from benchmarks.loading import in_child
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.workloads import mixed_lengths, mixed_texts, sentences, w2_trace
from model.loading import save_model
from tests.tiny import LLAMA, random_model


def test_trace_is_the_published_one_at_a_quarter_of_its_lengths() -> None:
    trace = w2_trace(vocab_size=8000)
    assert len(trace) == 64
    assert (sum(len(request.prompt) for request in trace), sum(request.num_output for request in trace)) == (
        4399,
        2160,
    )
    assert all(4 <= len(request.prompt) <= 128 and 4 <= request.num_output <= 64 for request in trace)
    assert all(300 <= token < 8000 for request in trace for token in request.prompt)
    assert trace == w2_trace(vocab_size=8000)


def test_mixed_lengths_have_the_published_sum_and_median() -> None:
    lengths = mixed_lengths()
    assert (len(lengths), sum(lengths), median(lengths), max(lengths)) == (512, 17480, 24, 256)
    texts = mixed_texts(["one", "two"], lengths)
    assert [len(text.split()) + 2 for text in texts] == lengths


def test_other_engines_are_measured_where_they_are_installed(tmp_path: Path) -> None:
    assert every_name(tmp_path) == list(BENCHMARKS)
    assert every_name(tmp_path / "none") == [name for name in BENCHMARKS if name != "peers"]


def test_sentences_are_all_different() -> None:
    assert len(set(sentences())) == 64


def test_claim_takes_the_median_of_paired_ratios() -> None:
    claim = Claim("x", "tokens/s", ours=[10, 40, 9], theirs=[5, 10, 9], target=2.0)
    assert claim.ratio == 2.0
    assert claim.is_met
    assert not Claim("x", "tokens/s", [10, 10], [9, 9], target=2.0).is_met


def test_claim_without_a_peer_is_bounded_from_above() -> None:
    assert Claim("ready", "s", ours=[3.0, 9.0, 4.0], target=5.0).is_met
    assert not Claim("ready", "s", ours=[6.0], target=5.0).is_met
    assert Claim("ready", "s", ours=[6.0]).is_met is None


def test_report_is_kept_with_its_machine(tmp_path: Path) -> None:
    report = Report("toy", [Claim("x", "s", [1.0], [2.0], 0.4)])
    text = report.save(tmp_path).read_text(encoding="utf-8")
    assert '"ratio": 0.5' in text
    assert '"cores"' in text
    assert "| x | s | 1 | 2 | 0.50 | ≥ 0.4 | yes |" in report.table()


def test_runs_alternate_after_one_uncounted_run_each() -> None:
    order: list[str] = []

    def noted(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = alternate({"a": lambda: noted("a"), "b": lambda: noted("b")}, rounds=2)
    assert "".join(order) == "ababba"
    assert values == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_client_reads_sized_and_chunked_answers_and_keeps_connections() -> None:
    with toy_server() as (port, connections):
        bodies: list[Body] = [{"stream": index % 2 == 1, "index": index} for index in range(7)]
        replies, seconds = send_all(port, "/", bodies, clients=2)
    assert [reply.json()["path"] for reply in replies[::2]] == ["/"] * 4
    assert [reply.events() for reply in replies[1::2]] == [[{"n": 1}, {"n": 2}]] * 3
    assert all(reply.start <= reply.arrivals[0] <= reply.end for reply in replies)
    assert seconds > 0
    assert len(connections) == 2


def test_client_raises_for_an_error_status() -> None:
    with toy_server() as (port, _), pytest.raises(RuntimeError, match="418"):
        send_all(port, "/teapot", [{"stream": False}], clients=1)


def test_loading_is_timed_and_weighed_in_a_process_of_its_own(tmp_path: Path) -> None:
    save_model(random_model(LLAMA), tmp_path)
    seconds, peak = in_child("pack", tmp_path)
    assert 0 < seconds < 60
    assert 0 < peak < 500


@contextmanager
def toy_server() -> Iterator[tuple[int, list[object]]]:
    """Answers JSON with a length, or two chunked events; its port, and one entry a connection."""
    connections: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while head := await _head(reader):
            body = await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
            if b'"stream": true' in body:
                events = [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b"data: [DONE]\n\n"]
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            else:
                path = head.split()[1]
                status, content = ("418 no" if "teapot" in path else "200 OK"), f'{{"path": "{path}"}}'
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*tasks, return_exceptions=True)


def test_steps_are_told_with_the_work_around_the_model() -> None:
    report = steps.run(Options(pairs=1, is_full=False))
    names = [claim.what for claim in report.claims]
    assert names[:2] == ["a step of 1", "work around the model, of 1"]
    assert all(value > 0 for claim in report.claims for value in claim.ours)
    assert all(value < 1 for claim in report.claims if claim.unit == "share" for value in claim.ours)
