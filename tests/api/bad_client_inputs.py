"""Requests that are wrong in one way each, on the routes of OpenAI's, Hugging Face's and LibreTranslate's clients."""

from typing import Any

from tests.api.bad_inputs import LONG, MANY, Bad

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
LIBRE = {"q": "Hi", "source": "en", "target": "de"}


def chat(name: str, names: str, **fields: Any) -> Bad:
    return Bad(f"chat: {name}", "/v1/chat/completions", CHAT | fields, names)


def pipeline(name: str, task: str, inputs: Any, names: str, *, beside: Any = None, **parameters: Any) -> Bad:
    body = {"inputs": inputs, "parameters": parameters, **(beside or {})}
    return Bad(f"{task}: {name}", f"/pipeline/{task}", body, names)


def libre(name: str, names: str, **fields: Any) -> Bad:
    return Bad(f"LibreTranslate: {name}", "/translate", LIBRE | fields, names)


OPENAI = [
    Bad("completions: no prompt", "/v1/completions", {}, "prompt"),
    Bad("completions: token ids and texts", "/v1/completions", {"prompt": [1, "a"]}, "prompt"),
    Bad("completions: negative token ids", "/v1/completions", {"prompt": [-1]}, "prompt"),
    Bad("completions: an empty list of ids", "/v1/completions", {"prompt": [[]]}, "prompt"),
    Bad("completions: a hundred thousand ids", "/v1/completions", {"prompt": [5] * MANY}, "prompt"),
    Bad("completions: messages", "/v1/completions", {"prompt": "a", "messages": []}, "messages"),
    Bad(
        "completions: an unknown option",
        "/v1/completions",
        {"prompt": "a", "stream": True, "stream_options": {"usage": 1}},
        "stream_options",
    ),
    chat("no messages", "messages", messages=[]),
    chat("a message alone", "messages", messages={"role": "user", "content": "Hi"}),
    chat("a message that is a text", "messages", messages=["Hi"]),
    chat("an unknown role", "messages", messages=[{"role": "king", "content": "Hi"}]),
    chat("no content", "messages", messages=[{"role": "user"}]),
    chat("no parts", "messages", messages=[{"role": "user", "content": []}]),
    chat(
        "an image",
        "messages",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ),
    chat("a text of nearly a megabyte", "messages", messages=[{"role": "user", "content": LONG}]),
    chat("ten thousand messages", "messages", messages=[{"role": "user", "content": "Hi"}] * 10_000),
    chat("an unknown field in a message", "messages", messages=[{"role": "user", "content": "a", "mood": 1}]),
    chat("an unknown field", "prompt", prompt="Hi"),
    chat("a number of log-probabilities", "logprobs", logprobs=5),
    chat("too many likeliest", "top_logprobs", logprobs=True, top_logprobs=21),
    chat("tools", "tools", tools=[{"type": "function", "function": {"name": "f"}}]),
    chat("variables in a list", "chat_template_kwargs", chat_template_kwargs=[]),
    chat(
        "both ways to go on", "add_generation_prompt", add_generation_prompt=True, continue_final_message=True
    ),
    chat("a schema without one", "response_format", response_format={"type": "json_schema"}),
    chat("a negative limit", "max_completion_tokens", max_tokens=None, max_completion_tokens=-5),
    Bad("embeddings: nothing", "/v1/embeddings", {"input": []}, "input"),
    Bad("embeddings: numbers with points", "/v1/embeddings", {"input": [1.5]}, "input"),
    Bad("embeddings: no dimensions", "/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    Bad("embeddings: an unknown field", "/v1/embeddings", {"input": "a", "pooling": "cls"}, "pooling"),
    Bad("embeddings: over the context", "/v1/embeddings", {"input": ["a", LONG]}, "input"),
]
HUGGING_FACE = [
    Bad("no inputs", "/pipeline/text-classification", {}, "inputs"),
    Bad("inputs that are null", "/pipeline/text-classification", {"inputs": None}, "inputs"),
    Bad("parameters in a list", "/", {"inputs": "a", "parameters": []}, "parameters"),
    Bad("an unknown task", "/models/mood/pipeline/painting", {"inputs": "a"}, "painting", 404),
    Bad("an unknown model's task", "/models/nobody/pipeline/fill-mask", {"inputs": "[MASK]"}, "nobody", 404),
    Bad(
        "a model that cannot do the task", "/models/writer/pipeline/fill-mask", {"inputs": "[MASK]"}, "writer"
    ),
    pipeline("an unknown field", "text-classification", "a", "mood", beside={"mood": 1}),
    pipeline("an unknown parameter", "text-classification", "a", "threshold", threshold=1),
    pipeline("an unknown option", "text-classification", "a", "options", beside={"options": {"fast": True}}),
    pipeline(
        "an unknown function", "text-classification", "a", "function_to_apply", function_to_apply="tanh"
    ),
    pipeline("no texts", "text-classification", [], "inputs"),
    pipeline("a hundred thousand texts", "text-classification", ["a"] * MANY, "inputs"),
    pipeline("no labels", "zero-shot-classification", "a", "candidate_labels", candidate_labels=[]),
    pipeline("labels that were forgotten", "zero-shot-classification", "a", "candidate_labels"),
    pipeline(
        "a template without a place",
        "zero-shot-classification",
        "a",
        "hypothesis_template",
        candidate_labels=["b"],
        hypothesis_template="It is",
    ),
    pipeline(
        "an unknown strategy",
        "token-classification",
        "a",
        "aggregation_strategy",
        aggregation_strategy="last",
    ),
    pipeline("a text for a pair", "question-answering", "Who?", "inputs"),
    pipeline("a blank question", "question-answering", {"question": " ", "context": "a"}, "question"),
    pipeline(
        "windows of nothing",
        "question-answering",
        {"question": "a", "context": "b"},
        "max_seq_len",
        max_seq_len=0,
    ),
    pipeline("no mask", "fill-mask", "a", "inputs"),
    pipeline("no targets", "fill-mask", "[MASK]", "targets", targets=[]),
    pipeline(
        "a text in place of a list",
        "sentence-similarity",
        {"source_sentence": "a", "sentences": "b"},
        "inputs",
    ),
    pipeline("no sentences", "sentence-similarity", {"source_sentence": "a", "sentences": []}, "inputs"),
    pipeline(
        "an unknown direction",
        "feature-extraction",
        "a",
        "truncation_direction",
        beside={"truncation_direction": "up"},
    ),
    pipeline("no such language", "translation", "a", "tgt_lang", tgt_lang="xx"),
    pipeline(
        "beams below one",
        "translation",
        "a",
        "num_beams",
        tgt_lang="de",
        generate_parameters={"num_beams": 0},
    ),
    pipeline(
        "an unknown one of generate's",
        "translation",
        "a",
        "temprature",
        tgt_lang="de",
        generate_parameters={"temprature": 1},
    ),
    pipeline("a negative limit", "text-generation", "a", "max_new_tokens", max_new_tokens=-1),
    pipeline("an empty stop", "text-generation", "a", "stop", stop=[""]),
    pipeline("an unknown grammar", "text-generation", "a", "grammar", grammar={"type": "lark", "value": "x"}),
    pipeline("a grammar without a value", "text-generation", "a", "grammar", grammar={"type": "regex"}),
    pipeline("an adapter that is none", "text-generation", "a", "adapter_id", adapter_id="writer"),
    pipeline("a stream that is a text", "text-generation", "a", "stream", beside={"stream": "yes"}),
]
LIBRE_TRANSLATE = [
    Bad("LibreTranslate: nothing", "/translate", {}, "q"),
    libre("no text", "q", q=None),
    libre("an object for a text", "q", q={"text": "Hi"}),
    libre("no texts", "q", q=[]),
    libre("a hundred thousand texts", "q", q=["a"] * MANY),
    libre("an unknown target", "target", target="xx"),
    libre("an unknown source", "source", source="xx"),
    libre("an unknown format", "format", format="markdown"),
    libre("too many alternatives", "alternatives", alternatives=8),
    libre("negative alternatives", "alternatives", alternatives=-1),
    libre("a model that cannot", "writer", model="writer"),
    Bad("LibreTranslate: a list for /detect", "/detect", {"q": ["a"]}, "q"),
    Bad("LibreTranslate: a body that is a list", "/translate", ["q"], "body"),
    Bad(
        "LibreTranslate: a form in Latin-1",
        "/translate",
        b"q=%E4&source=en&target=de",
        "form",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Bad(
        "LibreTranslate: a form of many fields",
        "/translate",
        b"a=1&" * 5000,
        "form",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Bad(
        "LibreTranslate: a form in parts",
        "/translate",
        b"--x--",
        "Content-Type",
        415,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    ),
]
