"""The routes that LibreTranslate's clients call: its interface, over whatever translation models are served."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.deps import DeskDep, NeedsKeysDep, RegistryDep
from app.api.errors import JSON, encode_json
from app.api.forms import FORM, FormRoute
from app.api.libretranslate_schemas import DetectBody, TranslateTextBody
from app.api.schemas import as_list
from app.tasks.language_id import Detected, is_installed
from app.tasks.language_names import english_name
from app.tasks.translate import TranslateOptions
from app.tasks.translators import AUTO, Direction, Translation

router = APIRouter(tags=["libretranslate"], route_class=FormRoute)

_FEWEST_BEAMS = 4
_CANDIDATE = 0.1
"""So probable a language is told beside the likeliest."""


def _also_form(body: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body}"}
    return {"requestBody": {"content": {FORM: {"schema": schema}}}}


@router.post("/translate", openapi_extra=_also_form("TranslateTextBody"))
async def translate_text(body: TranslateTextBody, desk: DeskDep) -> Response:
    """Translates a text or a list; `source` may be `auto`."""
    translators = desk.translators(body.model)
    count = body.alternatives or 0

    def options(direction: Direction) -> TranslateOptions:
        searched = {"n": count + 1, "num_beams": max(_FEWEST_BEAMS, count + 1)} if count else {}
        generate = direction.task.options(searched, temperature=0.0)
        return TranslateOptions(generate, direction.target, direction.source)

    translate = translators.translate_html if body.format == "html" else translators.translate
    done = await translate(as_list(body.q), body.source, body.target, options, desk.call.usage)
    columns: dict[str, list[Any]] = {"translatedText": [one.alternatives[0].text for one in done]}
    if body.source == AUTO:
        columns["detectedLanguage"] = [_told(one.detected) for one in done if one.detected is not None]
    if count:
        columns["alternatives"] = [_others(one) for one in done]
    is_list = isinstance(body.q, list)
    return _json({name: column if is_list else column[0] for name, column in columns.items()})


@router.post("/detect", openapi_extra=_also_form("DetectBody"))
async def detect(body: DetectBody, registry: RegistryDep) -> Response:
    """The language of a text, likeliest first."""
    (ranked,) = await registry.detector.rank([body.q])
    return _json([_told(one) for i, one in enumerate(ranked) if i == 0 or one.confidence >= _CANDIDATE])


@router.get("/languages")
async def languages(desk: DeskDep) -> Response:
    """Which languages can be translated, and into which."""
    pairs = desk.translators(None).languages()
    return _json(
        [
            {"code": source, "name": english_name(source), "targets": targets}
            for source, targets in sorted(pairs.items(), key=lambda pair: english_name(pair[0]))
        ]
    )


@router.get("/frontend/settings")
async def frontend_settings(desk: DeskDep, needs_keys: NeedsKeysDep) -> Response:
    """What a client's page begins with."""
    pairs = desk.translators(None).languages()
    source = next(iter(pairs), "en")
    target = next(iter(pairs.get(source, [])), "en")
    start = {"code": AUTO, "name": "Auto Detect"} if is_installed() else _named(source)
    return _json(
        {
            "apiKeys": needs_keys,
            "charLimit": -1,
            "filesTranslation": False,
            "frontendTimeout": 500,
            "keyRequired": needs_keys,
            "language": {"source": start, "target": _named(target)},
            "suggestions": False,
            "supportedFilesFormat": [],
        }
    )


def _json(value: Any) -> Response:
    return Response(encode_json(value), media_type=JSON)


def _named(code: str) -> dict[str, str]:
    return {"code": code, "name": english_name(code)}


def _told(found: Detected) -> dict[str, Any]:
    """Per cent, as these clients have it."""
    return {"language": found.language, "confidence": round(100 * found.confidence, 1)}


def _others(translation: Translation) -> list[str]:
    _best, *others = dict.fromkeys(one.text for one in translation.alternatives)
    return others
