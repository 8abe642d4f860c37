"""Checkpoint folders without weights: config and a byte-level tokenizer, enough for all that the API process reads."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ["<pad>", "</s>", "[CLS]", "[SEP]", "[MASK]"]

_BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": 1,
    "hidden_act": "silu",
}
_T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "d_model": 8,
    "d_ff": 16,
    "d_kv": 4,
    "num_layers": 1,
    "num_heads": 2,
    "n_positions": 128,
    "feed_forward_proj": "gated-gelu",
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "task_specific_params": {
        "translation_en_to_de": {"prefix": "<2de> "},
        "translation_en_to_fr": {"prefix": "<2fr> "},
    },
}


def bert(architecture: str, **changes: Any) -> dict[str, Any]:
    """The config of an encoder with one of the heads."""
    return _BERT | {"architectures": [architecture]} | changes


CHAT_TEMPLATE = """{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}
{{ raise_exception('no role ' + m.role) }}{% endif %}{{ m.role[0] + ':' + m.content + eos_token }}{% endfor %}
{% if add_generation_prompt %}{{ 'a:' + (mood or '') }}{% endif %}"""
"""`u:text</s>`, and `a:` for the answer, with the request's `mood` behind it."""

CONFIGS: dict[str, dict[str, Any]] = {
    "writer": _LLAMA,
    "assistant": _LLAMA | {"chat_template": CHAT_TEMPLATE},
    "translator": _T5,
    "mood": bert("BertForSequenceClassification", id2label={"0": "bad", "1": "fair", "2": "good"}),
    "topics": bert(
        "BertForSequenceClassification",
        id2label={"0": "art", "1": "law"},
        problem_type="multi_label_classification",
    ),
    "reader": bert("BertForQuestionAnswering"),
    "filler": bert("BertForMaskedLM"),
    "sentences": bert("BertModel"),
    "tagger": bert("BertForTokenClassification", id2label={"0": "O", "1": "B-NUM", "2": "I-NUM"}),
    "judge": bert(
        "BertForSequenceClassification",
        id2label={"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"},
    ),
    "ranker": bert("BertForSequenceClassification", id2label={"0": "LABEL_0"}),
}


def byte_tokenizer(*, pair_template: bool) -> Tokenizer:
    """One token per byte, so that most characters take several; `[CLS] A [SEP] B [SEP]` or `A </s>`-free."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    if pair_template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return tokenizer


def write_folder(folder: Path, config: dict[str, Any]) -> Path:
    """A folder as the registry reads it; a `chat_template` goes to the tokenizer's settings."""
    folder.mkdir(parents=True)
    is_bert = config["model_type"] == "bert"
    tokenizer = byte_tokenizer(pair_template=is_bert)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"mask_token": "[MASK]", "cls_token": "[CLS]"} if is_bert else {"eos_token": "</s>"}
    config = config | {"vocab_size": tokenizer.get_vocab_size()}
    if template := config.pop("chat_template", None):
        names |= {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "config.json").write_text(json.dumps(config))
    return folder
