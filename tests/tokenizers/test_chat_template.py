"""Chat templates: the same text as `transformers` makes, and nothing that a hostile template may do to the process."""

import time
from pathlib import Path
from typing import Any

import pytest
import transformers

from model.config import CheckpointError
from model.tokenization import ChatTemplate, ChatTemplateError
from tests.tokenizers import folders
from tests.tokenizers.texts import write_json

USER: list[dict[str, Any]] = [{"role": "user", "content": "Hi <b> & 'you'"}]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    *USER,
    {"role": "assistant", "content": " Hello. ", "reasoning": "A greeting."},
    {"role": "user", "content": [{"type": "text", "text": "日本"}]},
]
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}
]

CHATML = """{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=2) }}
    {%- endfor %}
{%- endif %}
{% for message in messages %}
    {%- set text = message.content if message.content is string else message.content[0].text %}
    {{- '<|im_start|>' + message['role'] + '\\n' ~ text | trim ~ '<|im_end|>\\n' }}
    {% if loop.index0 % 2 == 1 %}odd{% endif %}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
FEATURES = """{% set ns = namespace(n=0, seen=false) %}{% macro wrap(x, y='-') %}[{{ x }}{{ y }}]{% endmacro %}
{% for m in messages if m.role != 'system' %}
{% set ns.n = ns.n + 1 %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ m.reasoning_content }}{{ m.thinking }}
{% endgeneration %}{% continue %}{% endif %}
{{ wrap(m.role | upper, y=ns.n * 2) }} {{ m | tojson }} {{ "%02d|%s" | format(ns.n, 'x') }} {{ '{:>4}'.format(ns.n) }}
{% if ns.n > 2 %}{% break %}{% endif %}
{% endfor %}
{{ bos_token }}{{ nothing }}{{ eos_token }} {{ dict(a=1) }} {{ messages | length }} {{ flag }}
{{ ('a' ~ 1 ~ none) | replace('a', 'bb') }} {{ 'x' * 3 }} {{ messages[0].role.startswith('s') }}
{{ strftime_now('%Y') }} {{ 'a\nb' | indent(2) }}
{{ 'm' | center(5) }}|{{ messages | map(attribute='role') | join(',') }}
"""


def published(folder: Path, template: Any, **settings: Any) -> Path:
    folders.gpt2(folder)
    folders.config(folder, "GPT2Tokenizer", chat_template=template, bos_token="<|endoftext|>", **settings)
    return folder


@pytest.mark.parametrize("template", [CHATML, FEATURES])
@pytest.mark.parametrize("messages", [USER, CHAT])
@pytest.mark.parametrize(
    "options", [{}, {"add_generation_prompt": True}, {"tools": TOOLS}, {"flag": [1, {"a": None}]}]
)
def test_text_is_that_of_transformers(
    template: str, messages: list[Any], options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = transformers.GPT2Tokenizer.from_pretrained(published(tmp_path, template))
    wanted = theirs.apply_chat_template(messages, tokenize=False, **options)
    ours = ChatTemplate.from_folder(tmp_path)
    assert ours is not None
    rest = {key: value for key, value in options.items() if key not in ("tools", "add_generation_prompt")}
    # what transformers' own class adds where the settings do not say
    tokens = {key: value for key, value in theirs.special_tokens_map.items() if isinstance(value, str)}
    made = ours.render(
        messages,
        tools=options.get("tools"),
        add_generation_prompt="add_generation_prompt" in options,
        variables=rest | tokens,
    )
    assert made == wanted


def test_own_file_comes_before_the_settings_and_tools_choose_their_template(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    template = ChatTemplate.from_folder(published(tmp_path, named))
    assert template is not None
    assert (template.render(USER), template.render(USER, tools=TOOLS)) == ("plain", "tools")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file", encoding="utf-8")
    template = ChatTemplate.from_folder(tmp_path)
    assert template is not None
    assert template.render(USER, tools=TOOLS) == "<|endoftext|>file"
    with pytest.raises(ChatTemplateError, match="no chat template 'rag'; known: default"):
        template.render(USER, name="rag")


def test_checkpoint_without_template_has_none(tmp_path: Path) -> None:
    folders.gpt2(tmp_path)
    assert ChatTemplate.from_folder(tmp_path) is None


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = [
    (LOOP, "did not end within 1 s"),
    ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "did not end within 1 s|recursion"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os.system('id') }}", "unsafe|undefined"),
    ("{{ messages.append(1) }}", "unsafe|not safely callable"),
    ("{{ 'a' * 10**10 }}", "over 4000000 characters"),
    ("{{ [0] * 10**10 }}", "over 4000000 characters"),
    ("{{ 'a'.ljust(10**10) }}", "over 4000000 characters"),
    ("{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}", "over 4000000 characters"),
    ("{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}", "over 4000000 characters"),
    (
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "over 4000000",
    ),
    (
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "over 4000000",
    ),
    ("{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "over 4000000 characters"),
    ("{{ '%9999999999d' % 1 }}", "such widths"),
    ("{{ '%9999999999d' | format(1) }}", "such widths"),
    ("{{ '{:9999999999}'.format(1) }}", "such widths"),
    ("{{ 9 ** 9 ** 9 ** 9 }}", "too large a number"),
    ("{{ messages | tojson(indent=10**9) }}", "do not indent"),
    ("{{ 'a\nb' | indent(10**9) }}", "do not indent"),
    ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "do not set"),
    ("{% for %}", "Expected|unexpected"),
]


@pytest.mark.parametrize(("template", "message"), HOSTILE)
def test_hostile_template_is_refused_at_load_in_a_few_seconds(
    template: str, message: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": template})
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=f"tokenizer_config.json: .*({message})") as raised:
        ChatTemplate.from_folder(tmp_path, seconds=1.0)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - start < 6.0


def test_template_that_turns_hostile_for_one_chat_is_stopped_there() -> None:
    template = ChatTemplate({"default": "{% if messages[0].content == 'go' %}" + LOOP + "{% endif %}ok"}, {})
    assert template.render(USER) == "ok"
    with pytest.raises(ChatTemplateError, match=r"did not end within 0\.2 s"):
        template.render([{"role": "user", "content": "go"}], seconds=0.2)


def test_output_is_capped_as_the_caller_asks() -> None:
    template = ChatTemplate({"default": "{% for m in messages %}{{ m.content }}{% endfor %}"}, {})
    assert template.render(USER * 3, max_chars=100) == USER[0]["content"] * 3
    with pytest.raises(ChatTemplateError, match="over 30 characters"):
        template.render(USER * 3, max_chars=30)


def test_refusal_reaches_who_sent_the_chat(tmp_path: Path) -> None:
    refuses = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}ok"
    template = ChatTemplate.from_folder(published(tmp_path, refuses))
    assert template is not None
    with pytest.raises(ChatTemplateError, match=r"^roles must alternate$"):
        template.render(CHAT)


def test_mistake_of_the_template_is_an_error_of_the_chat() -> None:
    for mistake in ("{% include 'x' %}", "{{ messages[0].content + 1 }}", "{{ 1 / 0 }}"):
        with pytest.raises(ChatTemplateError):
            ChatTemplate({"default": mistake}, {}).render(USER)


def test_templates_hold_copies_of_plain_values_only() -> None:
    template = ChatTemplate({"default": "{{ messages[0].content }}"}, {})
    with pytest.raises(TypeError, match="JSON values, not PosixPath"):
        template.render([{"role": "user", "content": Path("x")}])


@pytest.mark.parametrize(
    "published_as", [3, [1], [{"name": "default"}], [{"name": "default", "template": 1}]]
)
def test_what_is_no_template_is_refused(published_as: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": published_as})
    with pytest.raises(CheckpointError, match="neither a text nor a list"):
        ChatTemplate.from_folder(tmp_path)
