"""The playground in a browser over a fake engine, which can stall, fail and ask for keys."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import Overloaded
from app.main import Guard
from app.security import KeyRing, new_key
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.browser import Visit, open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens pages of services; at the end none may have complained, unless the test took that."""
    visits: list[Visit] = []

    def open_one(service: Service, **options: Any) -> Visit:
        visits.append(Visit(browser, f"http://127.0.0.1:{service.port}", **options))
        return visits[-1]

    yield open_one
    for one in visits:
        one.close()
        assert one.complaints == []


def test_a_stream_is_stopped_and_its_sequence_freed(service: Service, visit: Callable[..., Visit]) -> None:
    service.on_loop(service.engine.gate.clear)
    service.engine.free_tokens = 12
    one = visit(service)
    panel = one.open()
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".token").nth(6).wait_for()
    panel.get_by_role("button", name="Stop").click()
    panel.locator(".status", has_text="Stopped.").wait_for()
    panel.get_by_role("button", name="Generate").wait_for()
    assert "Grüße" in panel.locator(".output").inner_text()
    service.wait_until(lambda: service.engine.num_aborted == 1 and service.engine.num_running == 0)


def test_characters_of_several_tokens_stay_whole(service: Service, visit: Callable[..., Visit]) -> None:
    panel = visit(service).open()
    panel.get_by_label("Max tokens").fill("24")
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".status", has_text="24 generated").wait_for()
    assert "Grüße, 世界! Stop" in panel.locator(".output").inner_text()
    panel.locator(".token", has_text="世").hover()
    assert panel.locator(".inspector li").all_inner_texts() == [
        "世\n22.3 %"
    ]  # three tokens of exp(-0.5) each
    panel.locator(".token", has_text="!").hover()
    assert panel.locator(".inspector li").all_inner_texts() == ["!\n60.7 %"]


def test_a_refusal_is_told_in_the_server_s_words(service: Service, visit: Callable[..., Visit]) -> None:
    one = visit(service)
    panel = one.open()
    panel.get_by_label("Temperature").fill("7")
    panel.get_by_role("button", name="Generate").click()
    told = panel.get_by_role("alert").inner_text()
    assert "temperature" in told
    assert "2" in told
    service.engine.failure = Overloaded("the queue is full", retry_after=3.0)
    panel.get_by_label("Temperature").fill("0")
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_role("alert").get_by_text("The queue is full. Try again in 3 s.").wait_for()
    assert len(one.complaints) == 2  # the browser's own lines on 400 and 429
    one.complaints.clear()


def test_an_error_within_a_stream_stands_behind_what_was_written(
    service: Service, visit: Callable[..., Visit]
) -> None:
    service.engine.failure = Overloaded("the engine gave up", retry_after=3.0)
    service.engine.fail_after = 5
    panel = visit(service).open()
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_role("alert").wait_for()
    told = panel.locator(".output").inner_text()
    assert "Gr" in told
    assert "The engine gave up" in told


def test_chats_remember_what_was_said(service: Service, visit: Callable[..., Visit]) -> None:
    panel = visit(service).open("chat")
    send = panel.get_by_role("button", name="Send")
    panel.get_by_label("Max tokens").fill("9")
    send.click()
    panel.locator(".status", has_text="9 generated").wait_for()
    panel.get_by_label("Message").fill("And then?")
    panel.get_by_label("Message").press("Control+Enter")
    panel.locator(".message").nth(3).wait_for()
    panel.locator(".status", has_text="9 generated").wait_for()
    decode = service.registry.served["assistant"].tokenizer.decode
    assert [decode(prompt) for prompt in service.engine.prompts()] == [
        "u:Who are you, and what can you do?a:",
        "u:Who are you, and what can you do?a:Grüße, u:And then?a:",
    ]
    assert panel.locator(".token").count() > 10
    panel.get_by_role("button", name="New chat").click()
    assert panel.locator(".output").inner_text() == ""


def test_offsets_count_characters_not_units(service: Service, visit: Callable[..., Visit]) -> None:
    one = visit(service)
    panel = one.open("entities")
    panel.get_by_label("Text").fill("😀😀 In 1833 and 1843.")
    one.ask(panel)
    assert panel.locator("mark").all_inner_texts() == ["1833 NUM", "1843 NUM"]
    panel = one.choose("questions")
    panel.get_by_label("Text").fill("🙂 Built in 1833, never before.")
    panel.get_by_label("Show top").fill("1")
    one.ask(panel)
    assert panel.locator("mark").all_inner_texts() == ["1833"]


@pytest.fixture
def mood(served: list[Served]) -> Iterator[Service]:
    """One model, which classifies."""
    running = Service([one for one in served if one.name == "mood"], LIMITS)
    yield running
    running.close()


def test_tabs_without_a_model_say_what_it_takes(mood: Service, visit: Callable[..., Visit]) -> None:
    one = visit(mood)
    panel = one.open("summarize")
    assert "It takes a BART" in panel.inner_text()
    assert not panel.locator("form").is_visible()
    assert one.page.get_by_role("tab", name="not served").count() == 9
    panel = one.choose("classify")
    assert "good" in one.ask(panel)
    panel.get_by_label("Labels", exact=True).select_option("own")
    assert panel.get_by_label("Model").locator("option").count() == 0


def test_summaries_are_streamed(service: Service, visit: Callable[..., Visit]) -> None:
    one = visit(service)
    panel = one.open("summarize")
    panel.get_by_label("Max tokens").fill("9")
    assert one.ask(panel).strip() == "Grüße,"


def test_the_keyboard_goes_through_tabs_and_tokens(service: Service, visit: Callable[..., Visit]) -> None:
    one = visit(service)
    panel = one.open()
    one.page.get_by_role("tab", name="Generate").focus()
    one.page.keyboard.press("ArrowLeft")
    assert one.page.get_by_role("tab", selected=True).inner_text() == "Engine"
    one.page.keyboard.press("Home")
    assert panel.is_visible()
    panel.get_by_label("Text").press("Control+Enter")
    panel.locator(".status", has_text=" ms").wait_for()
    panel.get_by_role("region", name="Answer").focus()
    one.page.keyboard.press("ArrowRight")
    one.page.keyboard.press("ArrowRight")
    assert one.page.evaluate("document.activeElement.textContent") == "r"
    assert panel.locator(".inspector li").count() == 1


def test_keys_are_asked_for_kept_in_the_tab_and_never_shown(
    start: Callable[..., Service], visit: Callable[..., Visit], tmp_path: Path
) -> None:
    secret, key = new_key("app", ["infer", "metrics"])
    path = tmp_path / "keys"
    path.write_text(key.line() + "\n")
    one = visit(start(guard=Guard(KeyRing(path))))
    page = one.page
    page.goto("/")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("A key is needed").wait_for()
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("This key is not known here.").wait_for()
    dialog.get_by_label("Key", exact=True).fill(secret)
    dialog.get_by_label("Key", exact=True).press("Enter")
    page.locator("#served", has_text=" on ").wait_for()
    page.locator("#strip-running", has_text="0").wait_for()
    panel = one.panel("generate")
    assert "Grüße" in one.ask(panel)
    code = panel.locator("pre").inner_text()
    assert "Bearer $QUARTET_KEY" in code
    assert secret not in page.content()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    one.complaints.clear()  # the browser's own lines on 401
    page.reload()
    page.locator("#served", has_text=" on ").wait_for()
    assert not dialog.is_visible()


def test_the_server_may_go_and_come_back(service: Service, visit: Callable[..., Visit]) -> None:
    one = visit(service)
    page = one.page
    page.route("**/v1/models", lambda route: route.abort())
    page.goto("/")
    page.get_by_text("The server cannot be reached.").wait_for()
    page.unroute("**/v1/models")
    page.locator("#served", has_text=" on ").wait_for()
    one.complaints.clear()


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_code_sends_what_the_button_sends(
    service: Service, visit: Callable[..., Visit], language: str, tmp_path: Path
) -> None:
    """For a body with all that must be escaped."""
    one = visit(service)
    panel = one.open()
    panel.get_by_label("Text").fill('It\'s "so" \\n $HOME `x` ${y} %s\nand 世界 😀 </script>')
    one.ask(panel)
    panel.get_by_label(language, exact=True).check()
    code = panel.locator("pre").inner_text()
    if language == "JavaScript":
        one.page.evaluate(f"(async () => {{ {code} }})()")
    else:
        run_code(code, language, tmp_path)
    sent, again = service.engine.prompts()
    assert sent == again
    first, second = (request.params for request in service.engine.requests)  # type: ignore[union-attr]
    assert (first.max_tokens, first.temperature) == (second.max_tokens, second.temperature)


def run_code(code: str, language: str, folder: Path) -> None:
    script = folder / "script"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, str(script)] if language == "Python" else ["bash", str(script)]
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "length" in done.stdout
