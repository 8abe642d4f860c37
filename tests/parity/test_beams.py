"""Beam search against `generate` of `transformers`: texts, scores and ends, in the plain loop and in the engine."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, Hypotheses, Hypothesis, Tokens
from app.engine.sampling_params import SamplingParams
from model.beam_decoding import generate_beams
from model.beam_search import BeamSettings, EarlyStopping
from model.greedy import generate_greedy
from tests.engine.test_engine import make_engine, num_free
from tests.engine.test_published_generation import CHECKPOINTS
from tests.parity.published import build
from tests.parity.test_encoder_decoders import EVEN, MARIAN

MODELS: dict[str, dict[str, Any]] = CHECKPOINTS | {
    "MarianMTModel": EVEN
    | MARIAN
    | {"vocab_size": 300, "pad_token_id": 299, "decoder_start_token_id": 299, "forced_eos_token_id": None}
}
COUNT = 24
CACHE_BYTES = 8_000_000
# Several tokens end a text, so that random models come to ends of all lengths.
ENDS = tuple(range(40, 300, 13))
Found = list[tuple[float, list[int]]]


@dataclass(frozen=True)
class Setting:
    num_beams: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    ends: tuple[int, ...] = ENDS


SETTINGS = (
    Setting(4),
    Setting(4, ends=()),
    Setting(2, 0.0, "never"),
    Setting(3, 2.0, early_stopping=True, ends=ENDS[::4]),
    Setting(5, 2.0, "never", ENDS[:1]),
    Setting(6, -1.0, ends=ENDS[:2]),
)


class Pair:
    """Their model in double, ours in double, and its folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.theirs, ours, _ = build(name, MODELS[name], folder)
        self.folder, self.theirs = folder / "theirs", self.theirs.double()
        self.ours = ours.double()
        self.is_decoder = ours.config.kind == "decoder"

    def prompts(self, count: int) -> list[list[int]]:
        source = random.Random(7)
        return [[source.randrange(3, 40) for _ in range(source.randint(1, 20))] for _ in range(count)]

    def their_beams(self, prompt: list[int], setting: Setting, **more: Any) -> Found:
        """All finished beams, best first, without their end tokens."""
        out = self.theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=COUNT,
            num_beams=setting.num_beams,
            num_return_sequences=setting.num_beams,
            length_penalty=setting.length_penalty,
            early_stopping=setting.early_stopping,
            eos_token_id=list(setting.ends) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **more,
        )
        skipped = len(prompt) if self.is_decoder else 1
        texts = [self._cut(row[skipped:], setting.ends) for row in out.sequences.tolist()]
        return list(zip(out.sequences_scores.tolist(), texts, strict=True))

    def their_greedy(self, prompt: list[int]) -> list[int]:
        """Without the end token."""
        out = self.theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=COUNT,
            eos_token_id=list(ENDS),
            pad_token_id=0,
        )
        return self._cut(out[0].tolist()[len(prompt) if self.is_decoder else 1 :], ENDS)

    @staticmethod
    def _cut(text: list[int], ends: tuple[int, ...]) -> list[int]:
        places = [place for place, token in enumerate(text) if token in ends]
        return text[: places[0]] if places else text[:COUNT]

    def request(self, number: int, prompt: list[int], setting: Setting, **more: Any) -> GenerateRequest:
        params = SamplingParams(
            max_tokens=COUNT,
            seed=number,
            ignore_eos=True,
            stop_token_ids=setting.ends,
            num_beams=setting.num_beams,
            num_return_sequences=setting.num_beams,
            length_penalty=setting.length_penalty,
            early_stopping=setting.early_stopping,
            **more,
        )
        return GenerateRequest(id=number, model="it", prompt_ids=prompt, params=params)

    def engine(self, cache_bytes: int = CACHE_BYTES) -> Engine:
        return make_engine({"it": self.folder}, kv_cache_memory=cache_bytes, token_budget=48)


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("pair"))


def same(got: Found, wanted: Found) -> None:
    assert [text for _, text in got] == [text for _, text in wanted]
    wanted_scores = [
        score for score, _ in wanted
    ]  # sums in float32: those in the thousands have coarser steps
    assert [score for score, _ in got] == pytest.approx(wanted_scores, abs=1e-4, rel=1e-6)


def found(best: list[Hypothesis]) -> Found:
    return [(text.score, text.token_ids) for text in best]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_plain_loop_finds_what_transformers_finds(pair: Pair, setting: Setting) -> None:
    settings = BeamSettings(
        num_beams=setting.num_beams,
        max_tokens=COUNT,
        end_token_ids=setting.ends,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
    )
    prompts = pair.prompts(6)
    for prompt, got in zip(prompts, generate_beams(pair.ours, prompts, settings), strict=True):
        same(got, pair.their_beams(prompt, setting))


def run(engine: Engine, requests: list[GenerateRequest]) -> tuple[dict[int, Any], int]:
    """Hypotheses or tokens by id, with requests arriving at random while others run; how many were preempted."""
    source = random.Random(1)
    waiting, answers, preempted = list(requests), dict[int, Any](), 0
    while waiting or engine.has_work:
        for _ in range(source.randint(0, 4)):
            if waiting:
                engine.add(waiting.pop(0))
        step = engine.step()
        preempted += step.report.preemptions if step.report else 0
        for output in step.outputs:
            if isinstance(output, Hypotheses):
                assert output.id not in answers, "a search ends once"
                assert output.queue_duration is not None
                answers[output.id] = output.best
            else:
                assert isinstance(output, Tokens), output
                answers.setdefault(output.id, []).extend(output.token_ids)
    return answers, preempted


@pytest.mark.parametrize("is_short", [False, True])
def test_beams_of_all_widths_among_sampled_sequences(pair: Pair, is_short: bool) -> None:
    """Also where the cache is so small that whole groups of beams are preempted and computed again."""
    engine = pair.engine()
    all_free = num_free(engine)
    if is_short:
        num_blocks = 26 if pair.is_decoder else 32  # just over the least that six beams are let in with
        engine = pair.engine(num_blocks * CACHE_BYTES // all_free)
        all_free = num_free(engine)
    requests = []
    for number, prompt in enumerate(pair.prompts(48 if is_short else 24)):
        if number % 4 == 3:
            params = SamplingParams(max_tokens=30, temperature=1.0 if number % 8 == 3 else 0.0, seed=number)
            requests.append(GenerateRequest(id=number, model="it", prompt_ids=prompt, params=params))
        else:
            requests.append(pair.request(number, prompt, SETTINGS[number % len(SETTINGS)]))
    answers, preempted = run(engine, requests)
    assert num_free(engine) == all_free
    assert (preempted > 0) == is_short
    for request in requests:
        if request.params.num_beams > 1:
            same(
                found(answers[request.id]),
                pair.their_beams(request.prompt_ids, SETTINGS[request.id % len(SETTINGS)]),
            )
        elif request.params.is_greedy:
            assert answers[request.id] == generate_greedy(pair.ours, [request.prompt_ids], 30)[0]
        else:
            assert len(answers[request.id]) > 0


def test_a_hundred_translations_equal_one_at_a_time(pair: Pair) -> None:
    """Each by four beams and greedy, all at once."""
    if pair.is_decoder:
        pytest.skip("translates nothing")
    prompts = pair.prompts(100)
    by_beams = [pair.request(i, prompt, Setting(4)) for i, prompt in enumerate(prompts)]
    greedy = [pair.request(100 + i, prompt, Setting(1)) for i, prompt in enumerate(prompts)]
    both = [request for two in zip(by_beams, greedy, strict=True) for request in two]
    answers, _ = run(pair.engine(), both)
    for number, prompt in enumerate(prompts):
        same(found(answers[number]), pair.their_beams(prompt, Setting(4)))
        assert answers[100 + number] == pair.their_greedy(prompt)


def test_rules_penalties_and_forced_tokens_hold_for_beams(pair: Pair) -> None:
    setting = Setting(4, ends=ENDS[:4])
    their_rules: dict[str, Any] = {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 6}
    our_rules: dict[str, Any] = {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_tokens": 6}
    given = 0
    if not pair.is_decoder:
        their_rules |= {"forced_bos_token_id": 7, "forced_eos_token_id": ENDS[0]}
        our_rules |= {"forced_bos_token": 7, "min_tokens": 5}
        given = 1
    prompts = pair.prompts(8)
    requests = [pair.request(i, prompt, setting, **our_rules) for i, prompt in enumerate(prompts)]
    if given:
        requests = [with_forced_end(request) for request in requests]
    answers, _ = run(pair.engine(), requests)
    for number, prompt in enumerate(prompts):
        wanted = [(score, text[given:]) for score, text in pair.their_beams(prompt, setting, **their_rules)]
        same(found(answers[number]), wanted)


def with_forced_end(request: GenerateRequest) -> GenerateRequest:
    """Theirs counts the forced first token in the length, ours does not; and ends only count where they are obeyed."""
    values = {name: getattr(request.params, name) for name in request.params.__struct_fields__}
    values |= {"max_tokens": COUNT - 1, "forced_eos_tokens": (ENDS[0],), "ignore_eos": False}
    return GenerateRequest(
        id=request.id, model="it", prompt_ids=request.prompt_ids, params=SamplingParams(**values)
    )


def test_log_probabilities_are_the_models_own(pair: Pair) -> None:
    [prompt] = pair.prompts(1)
    request = pair.request(0, prompt, Setting(3, ends=ENDS[:1]), logprobs=2)
    answers, _ = run(pair.engine(), [request])
    for text in answers[0]:
        assert text.logprobs is not None
        assert len(text.logprobs) == len(text.token_ids) > 0
        if text.finish_reason == "length":
            assert sum(entry.logprob for entry in text.logprobs) == pytest.approx(
                text.score * COUNT, abs=1e-4
            )
        for entry in text.logprobs:
            assert [logprob for _, logprob in entry.top] == sorted((p for _, p in entry.top), reverse=True)
            assert len(entry.top) == 2


def test_an_aborted_search_frees_what_all_its_beams_held(pair: Pair) -> None:
    engine = pair.engine()
    all_free = num_free(engine)
    prompts = pair.prompts(3)
    for number, prompt in enumerate(prompts):
        engine.add(pair.request(number, prompt, Setting(4, ends=())))
    for _ in range(6):
        engine.step()
    engine.abort([0, 2])
    answers, _ = run(engine, [])
    assert set(answers) == {1}
    same(found(answers[1]), pair.their_beams(prompts[1], Setting(4, ends=())))
    assert num_free(engine) == all_free
