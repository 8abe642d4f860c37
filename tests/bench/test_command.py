"""`quartet bench` from its flags to its exit code, against a hand-written server."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from app.bench.options import Options
from app.cli import main
from tests.bench.server import (
    DONE,
    STREAM,
    Asked,
    Site,
    Writer,
    chunk,
    event,
    piece,
    serving,
    stream,
    told,
    usage,
)

Answer = Callable[[Asked, Writer], None]


def well(asked: Asked, writer: Writer) -> None:
    """As many pieces as were asked for, and their usage; a list of models; no tokenizer."""
    if asked.path == "/v1/models":
        writer.write(told({"data": [{"id": "first"}, {"id": "second"}]}))
    elif asked.path == "/v1/completions":
        count = asked.body["max_tokens"]
        events = [piece(f" {n}") for n in range(count)]
        writer.write(stream([*events, usage(len(asked.body["prompt"].split()), count), DONE]))
    else:
        writer.write(told({"error": {"message": f"no {asked.path}"}}, "404 Not Found"))


class Bench:
    """Runs the command; what it said is in `out` and `err`."""

    def __init__(self, site: Site, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.site, self.folder, self._capsys = site, folder, capsys
        self.out = self.err = ""

    def __call__(self, *flags: str) -> int:
        code = main(["bench", "--url", self.site.url, *flags])
        self.out, self.err = self._capsys.readouterr()
        return code

    def levels(self, *flags: str) -> list[dict[str, Any]]:
        """Of the JSON."""
        path = self.folder / "bench.json"
        self(*flags, "--json", str(path))
        levels: list[dict[str, Any]] = json.loads(path.read_text())["levels"]
        return levels

    def posted(self) -> list[Any]:
        return [asked.body for asked in self.site.asked if asked.path == "/v1/completions"]


@pytest.fixture
def start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Callable[[Answer], Bench]]:
    opened = []

    def start_one(answer: Answer = well) -> Bench:
        async def handle(asked: Asked, writer: Writer) -> None:
            answer(asked, writer)

        opened.append(serving(handle))
        return Bench(opened[-1].__enter__(), capsys, tmp_path)

    yield start_one
    for one in opened:
        one.__exit__(None, None, None)


def test_the_numbers_are_those_of_the_server(start: Callable[..., Bench]) -> None:
    bench = start()
    [one, four] = bench.levels(
        "--concurrency", "1,4", "--requests", "12", "--prompt-tokens", "8", "--output-tokens", "5"
    )
    for level in (one, four):
        assert level["requests"] == {"sent": 12, "ok": 12, "refused": 0, "failed": 0, "cut": 0}
        assert (level["tokens"]["input"], level["tokens"]["output"]) == (96, 60)
        assert level["per_second"]["output_tokens"] == pytest.approx(60 / level["seconds"])
        assert level["generator"]["lateness_s"] is None
    assert "1 client   12" in bench.out
    assert "first" in bench.out
    assert "tokens: as the server counts them\n" in bench.out
    bodies = bench.posted()
    assert len(bodies) == 25  # one to warm up
    assert len({body["prompt"] for body in bodies}) == 25
    assert {(body["model"], body["stream"], body["temperature"]) for body in bodies} == {("first", True, 0)}


def test_the_same_seed_sends_the_same(start: Callable[..., Bench]) -> None:
    def sent(seed: str) -> list[Any]:
        bench = start()
        assert bench("--rate", "500", "--requests", "10", "--seed", seed) == 0
        return sorted(bench.posted(), key=lambda body: str(body["prompt"]))

    first = sent("3")
    assert sent("3") == first
    assert sent("4") != first


def test_what_is_asked_is_as_the_flags_say(
    start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUARTET_API_KEY", "secret")
    bench = start(
        lambda asked, writer: writer.write(told({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}))
    )
    flags = ["--model", "mine", "--no-stream", "--ignore-eos", "--extra", '{"top_p": 0.5, "temperature": 1}']
    assert bench(*flags, "--requests", "2", "--warmup", "0", "--json", str(bench.folder / "x")) == 0
    asked = bench.site.asked[-1]
    assert asked.headers["authorization"] == "Bearer secret"
    assert {"model": "mine", "ignore_eos": True, "top_p": 0.5, "temperature": 1}.items() <= asked.body.items()
    assert "stream" not in asked.body
    assert "secret" not in bench.out + bench.err + (bench.folder / "x").read_text()
    assert bench(*flags, "--requests", "1", "--api-key", "other") == 0
    assert bench.site.asked[-1].headers["authorization"] == "Bearer other"


def test_refusals_and_failures_are_counted_by_their_kind(start: Callable[..., Bench]) -> None:
    def badly(asked: Asked, writer: Writer) -> None:
        match asked.number % 5:
            case 0:
                well(asked, writer)
            case 1:
                writer.write(told({"error": {"message": "full"}}, "429 Too Many Requests", "Retry-After: 0"))
            case 2:
                writer.write(told({"error": {"message": "broken"}}, "500 Internal Server Error"))
            case 3:
                writer.write(STREAM + chunk(piece("a")))
                writer.close()
            case _:
                writer.write(stream([piece("a"), event({"error": {"message": "gone"}})]))

    bench = start(badly)
    flags = ["--model", "m", "--prompts", str(bench.folder / "p"), "--warmup", "0", "--concurrency", "1"]
    (bench.folder / "p").write_text("hello\n")
    [level] = bench.levels(*flags, "--requests", "10")
    assert level["requests"] == {"sent": 10, "ok": 2, "refused": 2, "failed": 6, "cut": 0}
    kinds = {failure["kind"]: (failure["count"], failure["message"]) for failure in level["failures"]}
    assert kinds == {
        "HTTP 500": (2, "broken"),
        "closed": (2, "the connection was closed in the middle of the answer"),
        "error event": (2, "gone"),
    }
    assert "1 client: 2 × HTTP 500: broken" in bench.out
    assert "refusals (429) came within" in bench.out


def test_without_usage_the_table_says_what_is_counted(start: Callable[..., Bench]) -> None:
    bench = start(lambda asked, writer: writer.write(stream([piece("a"), piece("b"), DONE])))
    flags = ["--model", "m", "--requests", "3", "--prompt-tokens", "7"]
    assert bench(*flags) == 0
    assert "the server told no usage in 3 of 3 answers; pieces of the stream are counted" in bench.out
    [level] = bench.levels(*flags)
    assert (level["tokens"]["input"], level["tokens"]["output"]) == (21, 6)


def test_texts_that_are_shorter_than_wanted_are_told(start: Callable[..., Bench]) -> None:
    bench = start(lambda asked, writer: writer.write(stream([piece("a"), usage(9, 1), DONE])))
    assert bench("--model", "m", "--requests", "2", "--prompt-tokens", "5", "--output-tokens", "8") == 0
    assert "texts: 1.00 tokens on average, where 8.00 were allowed" in bench.out
    assert "prompts: 9.00 tokens on average, where 5.00 were meant" in bench.out


def test_a_rate_sends_as_many_as_its_time_has_and_a_trace_its_own(start: Callable[..., Bench]) -> None:
    bench = start()
    [level] = bench.levels("--rate", "100", "--arrivals", "constant", "--duration", "0.2")
    assert level["requests"]["ok"] == 20
    assert level["seconds"] >= 0.19
    assert level["generator"]["lateness_s"]["max"] >= 0
    (bench.folder / "t").write_text(
        '{"prompt": "a", "output_tokens": 2, "at": 0.1}\n{"prompt": "b", "at": 0}\n'
    )
    [level] = bench.levels("--trace", str(bench.folder / "t"))
    assert level["load"] == {"kind": "trace", "value": None}
    assert level["requests"]["ok"] == 2
    assert [body["prompt"] for body in bench.posted()[-2:]] == ["b", "a"]


def test_nothing_answered_is_exit_code_1(start: Callable[..., Bench]) -> None:
    bench = start(lambda asked, writer: writer.write(told({"error": "down"}, "503 Service Unavailable")))
    flags = ["--model", "m", "--requests", "2"]
    assert bench(*flags, "--warmup", "0") == 1
    assert "2 × HTTP 503: down" in bench.out
    assert bench(*flags) == 1
    assert bench.out == ""
    assert "cannot be measured: HTTP 503: down" in bench.err
    assert bench() == 1
    assert "--model names one" in bench.err


def test_the_picture_is_a_picture(start: Callable[..., Bench]) -> None:
    bench = start()
    for name in ("a.png", "b.svg"):
        path = bench.folder / name
        flags = ["--concurrency", "1,16,2", "--requests", "16", "--slo", "ttft=5,itl=5,e2e=9"]
        assert bench(*flags, "--plot", str(path)) == 0
        assert "goodput: answers with ttft ≤ 5 s, itl ≤ 5 s, e2e ≤ 9 s" in bench.out
    assert (bench.folder / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    words = "".join(ElementTree.parse(bench.folder / "b.svg").getroot().itertext())
    for told_there in (
        "completions of first",
        "Time to first token, ms",
        "p99",
        "Output tokens/s",
        "clients at once",
    ):
        assert told_there in words
    assert re.search(r"\b1\s+2\s+16\b", words)


BAD = {
    "--url": "localhost",
    "--route": "poems",
    "--extra": "[1]",
    "--concurrency": "4,0",
    "--rate": "1,-2",
    "--arrivals": "sometimes",
    "--requests": "0",
    "--duration": "nan",
    "--warmup": "-1",
    "--timeout": "0",
    "--seed": "x",
    "--prompt-tokens": "9:3",
    "--output-tokens": "0",
    "--prompts": "/nowhere/p",
    "--trace": "/nowhere/t",
    "--slo": "ttft=1,speed=2",
    "--json": "/nowhere/x.json",
    "--plot": "x.gif",
}


@pytest.mark.parametrize(
    "flags",
    [
        *([name, value] for name, value in BAD.items()),
        ["--extra", "{"],
        ["--extra", '{"stream": true}'],
        ["--concurrency", "2,2"],
        ["--concurrency", "1.5"],
        ["--rate", "1", "--concurrency", "1"],
        ["--arrivals", "poisson"],
        ["--prompts", "p", "--trace", "t"],
        ["--prompt-tokens", "5", "--prompts", "p"],
        ["--output-tokens", "5", "--route", "qa"],
        ["--ignore-eos", "--route", "embeddings"],
        ["--slo", "ttft=1", "--no-stream"],
        ["--slo", "itl=1", "--route", "classify"],
        ["--slo", "ttft=1,ttft=2"],
        ["--slo", "ttft"],
        ["--json", "."],
        ["--plot", "/nowhere/x.svg"],
        ["--api-key", "a\nb"],
    ],
    ids=" ".join,
)
def test_a_bad_flag_is_exit_code_2_and_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["bench", "--url", "http://127.0.0.1:1", *flags])
    except SystemExit as exit_:
        code = int(str(exit_.code))
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert any(f"{flag}:" in last or f"argument {flag}" in last for flag in flags if flag.startswith("--")), (
        last
    )


def test_each_flag_that_can_be_wrong_has_a_wrong_value_here() -> None:
    able = {"model", "stream", "ignore_eos", "insecure", "api_key", "json_file"}
    assert {name.removeprefix("--").replace("-", "_") for name in BAD} - {"json"} == (
        set(Options.__dataclass_fields__) - able
    )


def test_without_matplotlib_a_picture_is_refused_before_anything_is_sent(
    start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bench.options.find_spec", lambda name: None)
    bench = start()
    assert bench("--plot", str(bench.folder / "x.png")) == 2
    assert "--plot: matplotlib is needed and not installed: pip install 'matplotlib" in bench.err
    assert not bench.site.asked


def test_an_interrupt_tells_what_was_measured_so_far(start: Callable[..., Bench]) -> None:
    """A process of its own, which gets SIGINT when its twenty-first request is there; that one is never answered."""
    running: list[subprocess.Popen[str]] = []

    def answer(asked: Asked, writer: Writer) -> None:
        if asked.number < 20:
            well(asked, writer)
        else:
            running[0].send_signal(2)

    bench = start(answer)
    path = bench.folder / "x.json"
    flags = ["--model", "m", "--prompts", str(bench.folder / "p"), "--warmup", "0", "--concurrency", "1"]
    (bench.folder / "p").write_text("hello\n")
    command = [sys.executable, "-m", "app.cli", "bench", "--url", bench.site.url, *flags, "--json", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.append(process)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "1 client: interrupted; 1 in flight are not counted" in out
    record = json.loads(path.read_text())
    assert record["interrupted"]
    assert record["levels"][0]["requests"] == {"sent": 21, "ok": 20, "refused": 0, "failed": 0, "cut": 1}
