"""Queries that read their keys where they lie: the answers of gathered keys, in any mixture of both."""

import random
from pathlib import Path

import pytest
import torch

from app.engine import grouping
from app.engine.engine import Engine
from app.engine.grouping import InTiles, LikeLengths, find_places, split_sequences
from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from model.config import TransformerConfig
from model.loading import save_model
from tests.engine.test_engine import make_engine, random_ids
from tests.engine.test_engine_windows import CONFIGS, MISTRAL
from tests.model.test_kernels import needs_kernel
from tests.tiny import BERT, LLAMA, T5, random_model

MODERNBERT = CONFIGS["modernbert"]


def test_few_queries_are_split_off_in_their_order_and_the_rest_is_grouped() -> None:
    shapes = [(1, 9000), (300, 300), (60, 60), (1, 3), (290, 290)]
    assert split_sequences(shapes, is_in_place=True) == ([0, 2, 3], [[1, 4]])
    in_place, groups = split_sequences(shapes, is_in_place=False)
    assert in_place == []
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3, 4]


def test_each_row_is_found_among_the_results() -> None:
    assert find_places([0, 2], [], [1, 1, 3]) is None
    assert find_places([], [[0, 1]], [3, 3]) is None
    # in place: rows 0 and 6..8; then a group of lengths 3 and 2, the shorter padded
    assert find_places([0, 3], [[1, 2]], [1, 3, 2, 3]) == [0, 4, 5, 6, 7, 8, 1, 2, 3]


@needs_kernel
@pytest.mark.parametrize("config", [LLAMA, MISTRAL, T5], ids=lambda config: config.family)
@pytest.mark.parametrize("most_pairs", [2**14, 200])
def test_what_is_read_in_place_is_what_is_gathered(
    config: TransformerConfig, most_pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lower line, where there is one, prompts on both sides of it share steps with sequences that decode."""
    monkeypatch.setattr(grouping, "IN_PLACE_PAIRS", most_pairs)
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    engine, gathering = (make_engine({"m": tmp_path}, dtype="float32") for _ in range(2))
    gathering._runners["m"].grouping = LikeLengths(is_in_place=False)
    in_place = (
        LikeLengths(True, encodes_in_place=True) if config is T5 else InTiles(64, encodes_in_place=True)
    )
    assert engine._runners["m"].grouping == in_place
    source = random.Random(1)
    prompts = [random_ids(source, 40) for _ in range(12)]
    second = 7 if config.kind == "encoder-decoder" else None  # its decoder begins with two tokens
    params = SamplingParams(max_tokens=8, logprobs=0, ignore_eos=True, forced_bos_token=second)
    got, wanted = (_logprobs(one, prompts, params) for one in (engine, gathering))
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


@needs_kernel
@pytest.mark.parametrize("config", [BERT, MODERNBERT], ids=lambda config: config.family)
def test_encodes_in_place_are_those_of_groups(config: TransformerConfig, tmp_path: Path) -> None:
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    engine, grouping_one = (make_engine({"m": tmp_path}, dtype="float32") for _ in range(2))
    grouping_one._runners["m"].grouping = LikeLengths(is_in_place=True)
    source = random.Random(2)
    texts = [random_ids(source, source.randrange(1, 60)) for _ in range(20)]
    got, wanted = (_embeddings(one, texts) for one in (engine, grouping_one))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert not torch.equal(got, wanted)  # two ways indeed


def _embeddings(engine: Engine, texts: list[list[int]]) -> torch.Tensor:
    for i, ids in enumerate(texts):
        engine.add(EncodeRequest(id=i, model="m", ids=ids, output="embedding"))
    found: dict[int, torch.Tensor] = {}
    while engine.has_work:
        for output in engine.step().outputs:
            assert isinstance(output, Encoded)
            found[output.id] = torch.frombuffer(bytearray(output.data), dtype=torch.float32)
    return torch.stack([found[i] for i in range(len(texts))])


def _logprobs(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[float]]:
    """Of each prompt's tokens; a prompt more arrives in each step."""
    found: list[list[float]] = [[] for _ in prompts]
    waiting = [
        GenerateRequest(id=i, model="m", prompt_ids=ids, params=params) for i, ids in enumerate(prompts)
    ]
    while waiting or engine.has_work:
        if waiting:
            engine.add(waiting.pop(0))
        for output in engine.step().outputs:
            assert isinstance(output, Tokens)
            found[output.id] += [one.logprob for one in output.logprobs or []]
    return found
