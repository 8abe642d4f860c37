"""POST /v1/chat/completions, as OpenAI's and Hugging Face's clients call it."""

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from app.api.answers import told
from app.api.chat import ChatChoices
from app.api.chat_schemas import ChatBody
from app.api.deps import Desk, DeskDep
from app.api.openai_answer import Kind, answer, check
from app.api.openai_answers import ChatAnswer
from app.errors import InvalidRequest
from app.tasks.chat import Chat

router = APIRouter(prefix="/v1", tags=["openai"])

_KIND = Kind("chatcmpl", "chat.completion", "chat.completion.chunk")
_MADE_UP_NAMES = frozenset({"dummy", "tgi"})
"""What clients put into `model` that were given a URL and no name."""
_URL_CLIENTS = ("hf_hub/", "@huggingface/")
"""In the User-Agent of those clients."""


@router.post("/chat/completions", responses=told(ChatAnswer, streams=True))
async def chat(body: ChatBody, request: Request, desk: DeskDep) -> Response:
    """Answers the last message of a chat; `n` times, if wanted."""
    check(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("goes with logprobs: true", "top_logprobs")
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest("contradicts continue_final_message", "add_generation_prompt")
    task = desk.task(Chat, _name(body.model, request, desk), body.timeout)
    is_continued = body.continue_final_message is True
    options = replace(task.options(body.values(), temperature=1.0), continues_prompt=is_continued)
    row = await task.chat_ids(
        body.chat(),
        add_generation_prompt=body.add_generation_prompt is not False and not is_continued,
        continue_final_message=is_continued,
        variables=body.chat_template_kwargs,
    )
    if body.logprobs:
        await task.read_spelling()
    return await answer(_KIND, body, desk, task, [row], options, ChatChoices(task, row))


def _name(model: str | None, request: Request, desk: Desk) -> str | None:
    """None, for the default, where only one model can be meant and the client knows a URL and no name."""
    if model in desk.registry.served or len(desk.registry.able(Chat.name)) != 1:
        return model
    agent = request.headers.get("user-agent", "")
    knows_no_name = model in _MADE_UP_NAMES or any(part in agent for part in _URL_CLIENTS)
    return None if knows_no_name else model
