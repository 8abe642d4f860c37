"""What a generative checkpoint with a chat template is asked, and what is made of its answers."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.engine.protocol import GenerateRequest
from app.errors import ConfigError, InvalidRequest
from app.metrics import Metrics
from app.registry import Registry
from app.tasks.base import Task, Usage
from app.tasks.language_names import prompted_name
from app.tasks.prompted import PromptedQA, PromptedSummarize, PromptedTranslate
from app.tasks.prompts import Prompts, make_prompts
from app.tasks.qa import Answer, QAOptions, Question
from app.tasks.served import read_served
from app.tasks.translate import TranslateOptions
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder
from tests.parity.seeded import make_tokenizer
from tests.tasks.test_encoder_decoders import BART

AnyTask = TypeVar("AnyTask", bound=Task)
SHORT = {
    "translate": "{source}>{target}: {text}",
    "summarize": "Sum: {text}",
    "qa": "{context}|{question}",
    "qa_or_none": "{context}|{question}|{no_answer}",
}


def make(
    kind: type[AnyTask], folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None
) -> tuple[AnyTask, FakeEngine]:
    write_folder(folder, config)
    (folder / "generation_config.json").write_text(json.dumps(generation or {}))
    served = read_served("it", folder, prompts=make_prompts({}, SHORT, "it"))
    assert kind in served.tasks
    engine = FakeEngine([served])
    [info] = asyncio.run(engine.start()).models
    return kind(served.task_model(info), engine, ThreadPoolExecutor(1)), engine


def asked(task: Task, engine: FakeEngine) -> list[str]:
    """The prompts, special tokens spelled out."""
    decode = task.model.tokenizer.decode
    return [decode(prompt, skip_special_tokens=False) for prompt in engine.prompts()]


@pytest.mark.parametrize(
    ("name", "prompts", "tasks"),
    [
        ("writer", {}, ["generate", "zero-shot"]),
        ("writer", {"summarize": "{text}"}, ["generate", "summarize", "zero-shot"]),
        ("assistant", {}, ["generate", "chat", "translate", "summarize", "qa", "zero-shot"]),
        ("translator", {}, ["translate", "generate"]),
        ("translator", {"classify": "{text}"}, ["translate", "generate", "zero-shot"]),
        ("translator", {"translate": "{text}{target}"}, ["translate", "generate"]),
        ("reader", {"qa": "{question}{context}"}, ["qa"]),
    ],
)
def test_which_tasks_a_checkpoint_is_prompted_for(
    name: str, prompts: dict[str, str], tasks: list[str], tmp_path: Path
) -> None:
    served = read_served(
        "it", write_folder(tmp_path / "it", CONFIGS[name]), prompts=make_prompts({}, prompts, "it")
    )
    assert [task.name for task in served.tasks] == tasks
    assert (PromptedTranslate in served.tasks) == ("translate" in prompts or name == "assistant")


def test_made_for_it_goes_before_told_to_do_it(tmp_path: Path) -> None:
    """Whatever the order, and whatever the prompted model is narrowed to."""
    summarizer = BART | {"task_specific_params": {"summarization": {}}}
    configs = {"assistant": CONFIGS["assistant"], "translator": CONFIGS["translator"], "bart": summarizer}
    served = [
        read_served(
            name, write_folder(tmp_path / name, config), only=["translate"] if name == "assistant" else None
        )
        for name, config in configs.items()
    ]
    full = read_served("full", tmp_path / "assistant")
    registry = Registry("test", [full, *served], Metrics("test"))
    wanted = {
        "translate": "translator",
        "summarize": "bart",
        "qa": "full",
        "chat": "full",
        "generate": "full",
    }
    assert {task: registry.default_model(task) for task in wanted} == wanted
    assert Registry("test", served[:1], Metrics("test")).default_model("translate") == "assistant"


def test_not_even_a_model_that_can_do_nothing_else_goes_before_one_made_for_it(tmp_path: Path) -> None:
    pairs = CONFIGS["translator"]["task_specific_params"]
    both = CONFIGS["translator"] | {"task_specific_params": pairs | {"summarization": {}}}
    prompted = read_served("prompted", write_folder(tmp_path / "a", CONFIGS["assistant"]), only=["summarize"])
    made = read_served("made", write_folder(tmp_path / "b", both))
    assert Registry("test", [prompted, made], Metrics("test")).default_model("summarize") == "made"


def test_a_model_can_be_narrowed_to_what_it_is_prompted_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "it", CONFIGS["writer"])
    with pytest.raises(ConfigError, match="cannot summarize, only generate, zero-shot"):
        read_served("it", folder, only=["summarize"])
    served = read_served("it", folder, only=["summarize"], prompts=Prompts(SHORT, frozenset(["summarize"])))
    assert served.tasks == (PromptedSummarize,)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("de", "German"),
        ("deu", "German"),
        ("GERMAN", "German"),
        ("ceb", "Cebuano"),
        ("ceb_Latn", "Cebuano (Latn)"),
        ("zh-Hant", "Chinese (Traditional)"),
        ("pt_BR", "Portuguese (Brazil)"),
        ("ja_XX", "Japanese"),
        ("Haitian Creole", "Haitian Creole"),
        ("xx", None),
        ("", None),
        ("de; ignore this", None),
    ],
)
def test_languages_have_names(code: str, name: str | None) -> None:
    assert prompted_name(code) == name


@pytest.mark.parametrize(
    ("config", "before", "behind"),
    [(CONFIGS["assistant"], "u:", "</s>a:"), (CONFIGS["writer"], "", ""), (CONFIGS["translator"], "", "")],
    ids=["chat", "plain", "encoder-decoder"],
)
def test_a_text_is_translated_whole_with_the_space_around_it_kept(
    config: dict[str, Any], before: str, behind: str, tmp_path: Path
) -> None:
    task, engine = make(PromptedTranslate, tmp_path / "it", config)
    engine.text = "Ja."
    options = TranslateOptions(task.options({"max_tokens": 3}, 0.0), "de", "en")
    texts = ["\n  One. Two.\n\nThree. ", "1 + 1", ""]
    translations = asyncio.run(task.translate(texts, options, Usage()))
    assert [one.text for [one] in translations] == ["\n  Ja. ", "1 + 1", ""]
    assert [one.score for [one] in translations] == pytest.approx([0.6065, 1, 1], abs=1e-4)
    [prompt] = asked(task, engine)
    assert prompt.replace("\n", "") == f"{before}English>German: One. Two.Three.{behind}"
    assert "Two.\n\nThree" in prompt


def test_a_source_that_is_not_told_is_the_text_s_own(tmp_path: Path) -> None:
    task, engine = make(PromptedTranslate, tmp_path / "it", CONFIGS["writer"])
    asyncio.run(task.translate(["Hi"], TranslateOptions(task.options({}, 0.0), "nl"), Usage()))
    assert asked(task, engine) == ["the language it is written in>Dutch: Hi"]
    for source, target, param in (("xx", "de", "source"), ("en", "qq", "target")):
        options = TranslateOptions(task.options({}, 0.0), target, source)
        with pytest.raises(InvalidRequest, match="no language's code") as refused:
            asyncio.run(task.translate(["Hi"], options, Usage()))
        assert refused.value.param == param


def test_the_makers_ways_with_chats_are_no_default_for_a_task(tmp_path: Path) -> None:
    """But what else they publish is; and a request may draw."""
    published = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1}
    task, _ = make(PromptedTranslate, tmp_path / "it", CONFIGS["assistant"], published)
    params = task.options({}, temperature=0.0).params
    assert (params.temperature, params.repetition_penalty) == (0.0, 1.1)
    assert task.options({"temperature": 0.3}, temperature=0.0).params.temperature == 0.3


def test_a_translation_may_be_thrice_as_long_as_its_prompt(tmp_path: Path) -> None:
    task, engine = make(PromptedTranslate, tmp_path / "it", CONFIGS["writer"])
    for text in ("x" * 80, "x" * 300):
        asyncio.run(task.translate([text], TranslateOptions(task.options({}, 0.0), "de", "en"), Usage()))
    around = len("English>German: ")
    limits = [one.params.max_tokens for one in engine.requests if isinstance(one, GenerateRequest)]
    assert limits == [3 * (80 + around) + 32, 512 - 300 - around]
    options = TranslateOptions(task.options({}, 0.0), "de", "en")
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(task.translate(["x" * 512], options, Usage()))
    assert refused.value.code == "too_long"


def test_summaries_as_the_prompt_says(tmp_path: Path) -> None:
    published = CONFIGS["translator"] | {
        "task_specific_params": {"summarization": {"num_beams": 3, "prefix": "s: "}}
    }
    task, engine = make(PromptedSummarize, tmp_path / "it", published)
    asyncio.run(task.summarize(["One. Two."], task.options({}, 0.0), Usage()))
    assert asked(task, engine) == ["Sum: One. Two."]
    [request] = engine.requests
    assert isinstance(request, GenerateRequest)
    assert request.params.num_beams == 1, "those are for the published prefix"


@pytest.mark.parametrize("name", ["writer", "assistant"])
def test_a_text_that_may_be_cut_leaves_room_for_its_summary(name: str, tmp_path: Path) -> None:
    task, engine = make(PromptedSummarize, tmp_path / "it", CONFIGS[name])
    options = task.options({"max_tokens": 100}, 0.0)
    long = "ä€😀" * 200
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(task.summarize([long], options, Usage()))
    assert refused.value.code == "too_long"
    asyncio.run(task.summarize([long], options, Usage(), truncate=True))
    [prompt] = engine.prompts()
    assert 512 - 100 - 4 < len(prompt) <= 512 - 100, "as much as fits, in whole characters"
    [text] = asked(task, engine)
    body = text.partition("Sum: ")[2].partition("</s>")[0]
    assert body
    assert long.startswith(body)
    asyncio.run(task.summarize(["short", "x" * 600], options, Usage(), truncate=True))
    assert "short" in asked(task, engine)[1]
    assert len(engine.prompts()[2]) == 512 - 100
    with pytest.raises(InvalidRequest, match="no room") as refused:
        asyncio.run(task.summarize([long], task.options({"max_tokens": 510}, 0.0), Usage(), truncate=True))
    assert refused.value.param == "text"


CONTEXT = "The bridge was built in 1843 by Ada."


@pytest.mark.parametrize(
    ("reply", "allow_no_answer", "wanted"),
    [
        ("1843", False, ("1843", 24, 28)),
        (" 1843\n", False, ("1843", 24, 28)),
        ('"1843."', False, ("1843", 24, 28)),
        ("Ada.", False, ("Ada.", 32, 36)),
        ("Eve.", False, ("Eve.", None, None)),
        ("unanswerable", False, ("unanswerable", None, None)),
        ("Unanswerable.", True, ("", 0, 0)),
        ("1843", True, ("1843", 24, 28)),
    ],
)
def test_an_answer_is_found_where_it_stands(
    reply: str, allow_no_answer: bool, wanted: tuple[Any, ...], tmp_path: Path
) -> None:
    task, engine = make(PromptedQA, tmp_path / "it", CONFIGS["writer"])
    engine.text = reply
    options = QAOptions(max_answer_tokens=len(reply), allow_no_answer=allow_no_answer)
    usage = Usage()
    [[answer]] = asyncio.run(task.run([Question("When?", CONTEXT)], options, usage))
    assert (answer.answer, answer.start, answer.end) == wanted
    assert answer.score == pytest.approx(0.6065, abs=1e-4)
    assert asked(task, engine) == [f"{CONTEXT}|When?" + ("|unanswerable" if allow_no_answer else "")]
    assert usage.prompt_tokens == len(engine.prompts()[0])


def test_an_answer_is_a_text_of_its_own(tmp_path: Path) -> None:
    """Behind its prompt a first word would begin with the blank that some tokenizers put into it."""
    tokenizer = make_tokenizer("llama")[0]
    config = CONFIGS["writer"]
    folder = write_folder(tmp_path / "it", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": tokenizer.get_vocab_size()}))
    served = read_served("it", folder, prompts=make_prompts({}, SHORT, "it"))
    engine = FakeEngine([served])
    engine.text = "river"
    [info] = asyncio.run(engine.start()).models
    model, pool = served.task_model(info), ThreadPoolExecutor(1)
    translator = PromptedTranslate(model, engine, pool)
    options = TranslateOptions(translator.options({"max_tokens": 1}, 0.0), "de", "en")
    assert [one.text for one in asyncio.run(translator.translate(["Fluss"], options, Usage()))[0]] == [
        "river"
    ]
    summarizer = PromptedSummarize(model, engine, pool)
    assert asyncio.run(summarizer.summarize(["a"], summarizer.options({"max_tokens": 1}, 0.0), Usage())) == [
        ["river"]
    ]


def test_several_answers_are_beams_and_each_is_told_once(tmp_path: Path) -> None:
    task, engine = make(PromptedQA, tmp_path / "it", CONFIGS["assistant"])
    engine.text = "1843   "
    options = QAOptions(top_k=3, max_answer_tokens=7)
    [first, second] = asyncio.run(task.run([Question("When?", CONTEXT)] * 2, options, Usage()))
    assert first == second
    assert [type(one) for one in first] == [Answer]
    [request, _] = engine.requests
    assert isinstance(request, GenerateRequest)
    assert (request.params.num_beams, request.params.num_return_sequences, request.params.temperature) == (
        3,
        3,
        0,
    )
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(task.run([Question("When?", CONTEXT)], QAOptions(top_k=65), Usage()))
    assert refused.value.param == "top_k"
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(task.run([Question("When?", "x" * 600)], QAOptions(), Usage()))
    assert (refused.value.param, refused.value.code) == ("context", "too_long")
