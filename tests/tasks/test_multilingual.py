"""Multilingual and Marian checkpoints, as `transformers` writes and runs them, through the task and the engine."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transformers

from app.engine.protocol import GenerateRequest
from app.tasks.base import Usage
from app.tasks.completion import Piece
from app.tasks.served import read_served
from app.tasks.translate import Translate, TranslateOptions
from model.tokenization import Tokenizer
from tests.api.fake_engine import FakeEngine
from tests.engine.test_engine import drain, make_engine
from tests.parity.published import build, their_tokens
from tests.parity.test_encoder_decoders import EVEN
from tests.tokenizers import folders

COUNT = 24
TEXT = "The cat sat on 1234 mats.  Nobody's dog said: Übung!\n\n42"
SENTENCES = ["The cat sat on 1234 mats.", "Nobody's dog said: Übung!"]


@dataclass(frozen=True)
class Case:
    """`published` is the target's token as `transformers` is told it; `started`: whether the decoder starts with it."""

    model: str
    tokenizer: str
    write: Callable[[Path], None]
    source: str | None
    target: str
    published: str
    settings: dict[str, Any]
    started: bool = False


CASES = {
    "nllb": Case(
        *("M2M100ForConditionalGeneration", "NllbTokenizer", folders.nllb, "fr", "de", "deu_Latn"),
        {"src_lang": "fra_Latn"},
    ),
    "nllb-legacy": Case(
        *(
            "M2M100ForConditionalGeneration",
            "NllbTokenizer",
            folders.nllb_legacy,
            None,
            "zh_Hant",
            "zho_Hant",
        ),
        {"src_lang": "fra_Latn"},
    ),
    "m2m100": Case(
        *("M2M100ForConditionalGeneration", "M2M100Tokenizer", folders.m2m100, None, "fra", "__fr__"),
        {"src_lang": "de"},
    ),
    "mbart50": Case(
        *("MBartForConditionalGeneration", "MBart50Tokenizer", folders.mbart50, "en", "fr_XX", "fr_XX"),
        {"src_lang": "en_XX"},
    ),
    "mbart": Case(
        *("MBartForConditionalGeneration", "MBartTokenizer", folders.mbart, "en_XX", "ro", "ro_RO"),
        {"src_lang": "en_XX"},
        started=True,
    ),
    "marian": Case(*("MarianMTModel", "MarianTokenizer", folders.marian, "en", "de", ">>deu<<"), {}),
}


def served(case: Case, root: Path) -> tuple[Any, Tokenizer, Path]:
    """Their model, and the folder that it and the tokenizer are in."""
    folder = root / "theirs"
    folder.mkdir()
    case.write(folder)
    ours = Tokenizer.from_folder(folder)
    # weights so large that the answers are of many tokens
    config = EVEN | {"vocab_size": ours.vocab_size, "decoder_start_token_id": 2, "init_std": 1.0}
    if case.model == "MarianMTModel":
        pad = ours.token_id("<pad>")
        config |= {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0}
        config |= {"scale_embedding": True, "encoder_layers": 1, "decoder_layers": 1}
    if case.started:
        config["decoder_start_token_id"] = ours.token_id(case.published)
    return build(case.model, config, root)[0], ours, folder


def translator(folder: Path) -> tuple[Translate, FakeEngine]:
    one = read_served("it", folder)
    engine = FakeEngine([one])
    [info] = asyncio.run(engine.start()).models
    assert one.tasks[0] is Translate
    return Translate(one.task_model(info), engine, ThreadPoolExecutor(1)), engine


def requests_for(task: Translate, case: Case, **values: Any) -> list[GenerateRequest]:
    options = TranslateOptions(
        task.options(values, 0.0),
        case.target,
        case.source,
        forces_token=values.get("forced_bos_token") is not None,
    )
    return asyncio.run(task.prepare([TEXT], options))[1]


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("name", CASES)
def test_prompts_and_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    theirs, ours, folder = served(case, tmp_path)
    task, _ = translator(folder)
    requests = requests_for(task, case, max_tokens=COUNT, ignore_eos=True)
    engine = make_engine({"it": folder})
    for i, request in enumerate(requests):
        engine.add(msgspec.structs.replace(request, id=i))
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    reader = getattr(transformers, case.tokenizer).from_pretrained(folder, **case.settings)
    is_marian = name == "marian"
    forced = None if is_marian or case.started else ours.token_id(case.published)
    start = theirs.config.decoder_start_token_id
    given = [start] if forced is None else [start, forced]
    assert len(requests) == len(SENTENCES)
    for i, sentence in enumerate(SENTENCES):
        prompt = reader(f"{case.published} {sentence}" if is_marian else sentence)["input_ids"]
        assert requests[i].prompt_ids == prompt
        wanted = their_tokens(
            theirs.double(),
            prompt,
            COUNT + (forced is not None),
            forced_eos_token_id=None,
            forced_bos_token_id=forced,
            decoder_start_token_id=start,
            pad_token_id=theirs.config.pad_token_id,
        )
        assert given + tokens[i] == wanted
        assert len(set(tokens[i])) > 2


def test_a_request_s_own_first_token_stands(tmp_path: Path) -> None:
    _, ours, folder = served(CASES["nllb"], tmp_path)
    task, _ = translator(folder)
    forced = {r.params.forced_bos_token for r in requests_for(task, CASES["nllb"])}
    own = {r.params.forced_bos_token for r in requests_for(task, CASES["nllb"], forced_bos_token="ita_Latn")}
    assert (forced, own) == ({ours.token_id("deu_Latn")}, {ours.token_id("ita_Latn")})


@pytest.mark.parametrize("name", ["nllb", "marian"])
def test_spacing_scores_alternatives_and_streams_are_as_for_prefixes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    task, engine = translator(served(case, tmp_path)[2])
    engine.text = "the cat"
    length = len(task.model.tokenizer.encode("the cat", add_special_tokens=False).ids)
    usage = Usage()
    options = TranslateOptions(task.options({"max_tokens": length, "n": 2}, 0.0), case.target, case.source)
    [[best, other]] = asyncio.run(task.translate([TEXT], options, usage))
    assert best == other
    assert (best.text, round(best.score, 4)) == ("the cat  the cat\n\n42", 0.6065)
    assert usage.completion_tokens == 4 * length

    async def read() -> list[Piece]:
        single = TranslateOptions(task.options({"max_tokens": length}, 0.0), case.target, case.source)
        return [piece async for piece in task.stream_translation(TEXT, single, Usage())]

    pieces = asyncio.run(read())
    assert "".join(piece.text for piece in pieces) == best.text
    assert pieces[-1].finish_reason == "length"
