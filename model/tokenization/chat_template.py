"""Which chat template a checkpoint has, and chats to text by it; `chat_sandbox` renders. Torch-free."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from model.config import CheckpointError
from model.tokenization import chat_sandbox
from model.tokenization.special_tokens import NAMES, content, read_settings

Message = Mapping[str, Any]

MAX_CHARS = 4_000_000
SECONDS = 5.0
"""What one rendering may take, in clock time."""

_MAX_SOURCE_BYTES = 1_000_000
_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""As `transformers` has it; the blank tells whether the template trims its messages."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


class ChatTemplateError(ValueError):
    """A chat that the template refuses or fails at; the message is for who sent the chat."""


class ChatTemplate:
    """The templates of one checkpoint by name; most have one, `default`."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """Raises jinja2.TemplateError. Tries nothing: see `from_folder`."""
        self.sources = dict(sources)
        self._tokens = dict(special_tokens)
        self._templates = {name: chat_sandbox.compile_template(text) for name, text in sources.items()}

    @classmethod
    def from_folder(cls, folder: Path, seconds: float = SECONDS) -> "ChatTemplate | None":
        """The checkpoint's; None where it has none.

        A template is tried once, in a process of its own that has `seconds` and little memory. Raises CheckpointError
        that names the file for one that is broken, reaches for what the sandbox forbids, or does not end.
        """
        settings = read_settings(folder)
        file, sources = _find(folder, settings)
        if not sources:
            return None
        tokens = {key: text for key in NAMES if (text := content(settings.get(key))) is not None}
        fault = try_templates(sources, tokens, seconds)
        if fault:
            raise CheckpointError(f"{file}: {fault}")
        try:
            return cls(sources, tokens)
        except jinja2.TemplateError as broken:
            raise CheckpointError(f"{file}: {broken}") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        name: str | None = None,
        variables: Mapping[str, Any] | None = None,
        max_chars: int = MAX_CHARS,
        seconds: float = SECONDS,
    ) -> str:
        """The text of a chat, special tokens in it: encode it without adding any.

        Messages, tools and variables are plain JSON values. Without a `name`, tools choose `tool_use` where there is
        one. `continue_final_message` ends the text with the last message's, for the model to go on with it. Raises
        ChatTemplateError.
        """
        template = self._template(name, with_tools=tools is not None)
        if continue_final_message:
            messages = _marked(messages)
        given = {
            **self._tokens,
            "documents": _plain(documents),
            **_plain(dict(variables or {})),
            "messages": [_with_reasoning(_plain(dict(message))) for message in messages],
            "tools": _plain(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            text = chat_sandbox.render(template, given, chat_sandbox.Budget(seconds, max_chars))
        except Exception as fault:  # a template is a program, which can fail in any way
            raise ChatTemplateError(f"{fault}" or type(fault).__name__) from None
        return _until_mark(text) if continue_final_message else text

    def mentions(self, word: str) -> bool:
        """Whether some template has `word` in quotes, as one that knows it as a role does."""
        return any(f"{quote}{word}{quote}" in text for text in self.sources.values() for quote in "'\"")

    def _template(self, name: str | None, with_tools: bool) -> jinja2.Template:
        if name is None:
            name = "tool_use" if with_tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise ChatTemplateError(f"no chat template {name!r}; known: {', '.join(sorted(self._templates))}")
        return self._templates[name]


def try_templates(sources: Mapping[str, str], special_tokens: Mapping[str, str], seconds: float) -> str:
    """One line on what is wrong, "" for nothing. Runs nothing of a template in this process."""
    user, answer = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}
    system = {"role": "system", "content": "Be short."}
    chats = [
        {
            **special_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add,
        }
        for messages in ([user], [user, answer, user], [system, user, answer, user])
        for tools, add in ((None, True), (None, False), ([_TOOL], True))
    ]
    task = {"sources": list(sources.values()), "chats": chats, "seconds": seconds, "max_chars": MAX_CHARS}
    # isolated, and by path: neither the environment nor the working directory chooses what is run
    command = [sys.executable, "-I", chat_sandbox.__file__]
    try:
        run = subprocess.run(
            command,
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=seconds + 2.0,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the chat template did not end within {seconds:g} s"
    if run.returncode:
        return f"trying the chat template ended with {run.returncode}: {run.stderr.strip()[-200:]}"
    return run.stdout


def _find(folder: Path, settings: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """Files of their own come before `tokenizer_config.json`."""
    file = folder / "chat_template.jinja"
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if file.is_file():
        files["default"] = file
    if files:
        return file, {name: _read(path) for name, path in files.items()}
    file = folder / "tokenizer_config.json"
    published = settings.get("chat_template")
    if published is None:
        return file, {}
    if isinstance(published, str):
        return file, {"default": published}
    try:
        sources = {entry["name"]: entry["template"] for entry in published}
    except (TypeError, KeyError):
        sources = {}
    if not sources or not all(isinstance(text, str) for pair in sources.items() for text in pair):
        raise CheckpointError(f"{file}: chat_template is neither a text nor a list of named ones")
    return file, sources


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_SOURCE_BYTES:
            raise CheckpointError(f"{file}: over {_MAX_SOURCE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None


def _plain(value: Any) -> Any:
    """A copy of JSON values, so that no template holds an object of ours; TypeError for anything else."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"a chat holds JSON values, not {type(value).__name__}")


def _marked(messages: Sequence[Message]) -> list[Message]:
    """With a mark at the end of the last message's text."""
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise ChatTemplateError("there is no final message with a text to continue")
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + _MARK}]


def _until_mark(text: str) -> str:
    """What comes before the mark; a template that trims its messages trims the text before it, too."""
    at = text.rfind(_MARK.strip())
    if at < 0:
        raise ChatTemplateError("the chat template leaves the final message out, so it cannot be continued")
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read an answer's reasoning by two names; clients send it by three."""
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}
