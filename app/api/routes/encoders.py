"""The native routes for entities, reranking and token ids."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.answers import DetokenizeAnswer, NerAnswer, RerankAnswer, TokenizeAnswer, told
from app.api.deps import DeskDep
from app.api.encoder_schemas import DetokenizeBody, NerBody, RerankBody, TokenizeBody
from app.api.schemas import as_list
from app.tasks.entities import Entity
from app.tasks.ner import Ner, NerOptions
from app.tasks.rerank import Rerank

router = APIRouter(prefix="/v1", tags=["tasks"])


@router.post("/ner", responses=told(NerAnswer))
async def find_entities(body: NerBody, desk: DeskDep) -> Response:
    """Names in a text and what they name, with their characters."""
    task = desk.task(Ner, body.model, body.timeout)
    ignored = ("O",) if body.ignore_labels is None else tuple(body.ignore_labels)
    options = NerOptions(body.aggregation, ignored, body.stride)
    texts = as_list(body.text)
    found = await task.run(texts, options, desk.call.usage)
    return desk.answer(
        entities=[[_entity(one, text) for one in row] for text, row in zip(texts, found, strict=True)]
    )


@router.post("/rerank", responses=told(RerankAnswer))
async def rerank(body: RerankBody, desk: DeskDep) -> Response:
    """Documents by how well they answer a query, best first."""
    task = desk.task(Rerank, body.model, body.timeout)
    ranked = await task.run(
        body.query, body.documents, desk.call.usage, top_n=body.top_n, truncate=body.truncate is True
    )
    results: list[dict[str, Any]] = []
    for one in ranked:
        result: dict[str, Any] = {"index": one.index, "relevance_score": one.relevance_score}
        results.append(
            result | {"document": {"text": body.documents[one.index]}} if body.return_documents else result
        )
    return desk.answer(results=results)


@router.post("/tokenize", responses=told(TokenizeAnswer))
async def tokenize(body: TokenizeBody, desk: DeskDep) -> Response:
    """A text's token ids, as the model would read them."""
    token_ids = desk.token_ids(body.model, body.timeout)
    rows = await token_ids.encode(as_list(body.text), add_special_tokens=body.add_special_tokens is not False)
    answer: dict[str, list[Any]] = {"tokens": rows, "count": [len(row) for row in rows]}
    if body.return_token_strs:
        answer["token_strs"] = [token_ids.spell(row) for row in rows]
    if isinstance(body.text, str):
        return desk.answer(**{key: values[0] for key, values in answer.items()})
    return desk.answer(**answer)


@router.post("/detokenize", responses=told(DetokenizeAnswer))
async def detokenize(body: DetokenizeBody, desk: DeskDep) -> Response:
    """The text of token ids."""
    token_ids = desk.token_ids(body.model, body.timeout)
    texts = await token_ids.decode(body.rows(), skip_special_tokens=body.skip_special_tokens is not False)
    return desk.answer(text=texts[0] if body.is_one() else texts)


def _entity(one: Entity, text: str) -> dict[str, Any]:
    return {
        "entity": one.entity,
        "score": one.score,
        "text": text[one.start : one.end],
        "start": one.start,
        "end": one.end,
    }
