"""Every head of every kind of encoder through the engine: packed in one step, the same as each text alone."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app.engine.admission import RequestError
from app.engine.engine import Engine
from app.engine.protocol import (
    AdapterSpec,
    Encoded,
    EncodeOutput,
    EncodeRequest,
)
from model.adapters import add_adapter, save_adapter
from model.config import Head, TransformerConfig
from model.families import read_config
from model.loading import load_model, save_model
from model.transformer import OWN, Transformer
from tests.engine.test_engine import make_engine
from tests.tiny import BERT, random_model

ROBERTA = replace(BERT, family="roberta", type_vocab_size=1, position_offset=2, pad_token_id=1)
DISTILBERT = replace(BERT, family="distilbert", type_vocab_size=0, pooler_activation="relu")
DEBERTA = replace(
    BERT,
    family="deberta-v2",
    position="none",
    type_vocab_size=0,
    disentangled=("c2p", "p2c"),
    relative_buckets=8,
    relative_max_distance=64,
    relative_norm=True,
    attention_scale=24**-0.5,
    pooler_activation="gelu",
)
UNSHARED = replace(
    DEBERTA,
    position="learned",
    disentangled=("c2p",),
    relative_buckets=0,
    relative_max_distance=6,
    shared_position_projections=False,
    relative_norm=False,
    attention_scale=16**-0.5,
)
CONFIGS = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "deberta": DEBERTA,
    "unshared": UNSHARED,
}
HEADS: dict[EncodeOutput, Head] = {
    "embedding": "none",
    "class": "sequence-class",
    "token-class": "token-class",
    "span": "span",
    "mask": "masked-lm",
}


def make_requests(output: EncodeOutput, models: tuple[str, ...] = ("m",)) -> list[EncodeRequest]:
    source = random.Random(5)
    lengths = [1, 60, 7, 8, 9, 33, 62, 2]
    texts = [[source.randrange(3, 96) for _ in range(length)] for length in lengths]
    return [
        EncodeRequest(
            id=i,
            model=models[i % len(models)],
            ids=ids,
            type_ids=[k % 2 for k in range(len(ids))],
            output=output,
            positions=[len(ids) - 1, 0] if output == "mask" else [],
            top_k=3,
        )
        for i, ids in enumerate(texts)
    ]


def answers(engine: Engine, requests: list[EncodeRequest]) -> dict[int, Tensor]:
    for request in requests:
        engine.add(request)
    outputs = engine.step().outputs
    assert not engine.has_work, "all in one step"
    encoded = [output for output in outputs if isinstance(output, Encoded)]
    assert len(encoded) == len(requests)
    return {e.id: torch.from_numpy(np.frombuffer(e.data, "<f4").reshape(e.shape).copy()) for e in encoded}


def alone(model: Transformer, request: EncodeRequest) -> Tensor:
    """The slow twin: one text, padded to its own length."""
    ids, types = torch.tensor([request.ids]), torch.tensor([request.type_ids])
    adapter = None if request.model == "m" else request.model
    head = adapter or OWN
    hidden = model.encode_padded(ids, torch.ones_like(ids, dtype=torch.bool), types, adapter)[0]
    if request.output == "embedding":
        return hidden.mean(0)
    if request.output == "class":
        return model.classify(hidden[:1], head)[0]
    if request.output == "token-class":
        return model.classify_tokens(hidden, head)
    if request.output == "span":
        return model.span(hidden, head)
    return model.masked_lm(hidden[request.positions], head).softmax(-1).topk(request.top_k).values


@pytest.mark.parametrize("output", HEADS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_step_gives_what_each_text_gives_alone(
    name: str, output: EncodeOutput, tmp_path: Path
) -> None:
    head = HEADS[output]
    labels = BERT.labels if head in ("sequence-class", "token-class") else ()
    model = random_model(CONFIGS[name], head=head, labels=labels)
    save_model(model, tmp_path)
    assert read_config(tmp_path) == model.config
    requests = make_requests(output)
    got = answers(make_engine({"m": tmp_path}, token_budget=2048), requests)
    for request in requests:
        torch.testing.assert_close(got[request.id], alone(model, request).float(), atol=1e-5, rtol=0)


def test_only_candidates_are_ranked_for_a_mask_and_keep_their_share_of_all_tokens(tmp_path: Path) -> None:
    model = random_model(BERT, head="masked-lm", labels=())
    save_model(model, tmp_path)
    wanted = [70, 4, 33, 51]
    free, asked = (
        EncodeRequest(
            id=i, model="m", ids=[5, 9, 7], output="mask", positions=[1, 2], candidates=candidates, top_k=3
        )
        for i, candidates in enumerate(([], wanted))
    )
    engine = make_engine({"m": tmp_path}, token_budget=2048)
    engine.add(free)
    engine.add(asked)
    outputs = {one.id: one for one in engine.step().outputs if isinstance(one, Encoded)}
    hidden = model.encode_padded(torch.tensor([free.ids]), torch.ones(1, 3, dtype=torch.bool), None)[0]
    shares = model.masked_lm(hidden[free.positions], OWN).softmax(-1)
    for output, among in ((outputs[0], range(BERT.vocab_size)), (outputs[1], wanted)):
        for row in range(2):
            best = sorted(among, key=lambda i: -float(shares[row, i]))[:3]
            assert output.ids[3 * row : 3 * row + 3] == best
            values = np.frombuffer(output.data, "<f4").reshape(2, 3)[row]
            np.testing.assert_allclose(values, shares[row, best].numpy(), atol=1e-6)


def test_a_candidate_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    save_model(random_model(BERT, head="masked-lm", labels=()), tmp_path)
    engine = make_engine({"m": tmp_path})
    request = EncodeRequest(model="m", ids=[5], output="mask", positions=[0], candidates=[BERT.vocab_size])
    with pytest.raises(RequestError, match="candidates"):
        engine.add(request)


@pytest.mark.parametrize("config", [DEBERTA, UNSHARED], ids=["shared", "unshared"])
def test_adapters_of_one_step_each_move_the_positions_of_their_own_rows(
    config: TransformerConfig, tmp_path: Path
) -> None:
    save_model(random_model(config), tmp_path / "base")
    model, specs = load_model(tmp_path / "base"), []
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed + 7)
        for parameter in add_adapter(model, name, config, rank=4, alpha=8):
            parameter.data.normal_(std=0.3)
        save_adapter(model, name, config, tmp_path / name, "base")
        specs.append(AdapterSpec(name, "m", str(tmp_path / name)))
    requests = make_requests("class", ("m", "first", "second"))
    got = answers(make_engine({"m": tmp_path / "base"}, specs, token_budget=2048), requests)
    model = model.double().eval()
    for request in requests:
        torch.testing.assert_close(got[request.id], alone(model, request).float(), atol=1e-5, rtol=0)


def test_an_output_needs_its_head(tmp_path: Path) -> None:
    save_model(random_model(ROBERTA), tmp_path)
    engine = make_engine({"m": tmp_path}, token_budget=2048)
    with pytest.raises(RequestError, match="no output 'token-class'"):
        engine.add(EncodeRequest(id=1, model="m", ids=[5], output="token-class"))
    with pytest.raises(RequestError, match="65 tokens"):
        engine.add(EncodeRequest(id=1, model="m", ids=[5] * 65, output="class"))
