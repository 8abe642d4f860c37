"""Our Transformer against `transformers` on the same random weights, read and written both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.greedy import generate_greedy
from tests.parity.published import build, close, their_tokens

BERT: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
}
BERTS = [
    BERT | {"intermediate_size": 48, "num_attention_heads": 4},
    BERT
    | {"intermediate_size": 72, "num_attention_heads": 2, "hidden_act": "gelu_new", "type_vocab_size": 3},
]
T5: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "d_kv": 10, "d_ff": 48, "num_heads": 3}
T5 |= {"decoder_start_token_id": 0}
T5S = [
    T5 | {"num_layers": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6},
    T5
    | {
        "num_layers": 1,
        "num_decoder_layers": 3,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
]
LLAMA: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
}
LLAMAS = [
    LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": True},
    LLAMA | {"num_attention_heads": 2, "rope_theta": 500.0, "attention_bias": True, "mlp_bias": True},
]
HEADS = [
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Three texts of different lengths and their segments."""
    torch.manual_seed(1)
    mask = torch.arange(11) < torch.tensor([[11], [7], [1]])
    return torch.randint(3, 100, (3, 11)), mask, (torch.arange(11) > 4).long().expand(3, 11)


@pytest.mark.parametrize("config", BERTS, ids=["plain", "odd"])
@pytest.mark.parametrize("name", HEADS)
@torch.inference_mode()
def test_bert(
    name: str, config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    ids, mask, types = inputs
    labels = {} if name in ("BertModel", "BertForQuestionAnswering") else {"num_labels": 5}
    theirs, ours, again = build(name, config | labels, tmp_path)
    hidden = ours.encode_padded(ids, mask, types)
    flat = hidden.flatten(0, 1)
    for model in (theirs, again):
        wanted = model(input_ids=ids, attention_mask=mask, token_type_ids=types)
        if name == "BertModel":
            close(hidden, wanted.last_hidden_state, mask)
        elif name == "BertForQuestionAnswering":
            close(ours.span(hidden), torch.stack((wanted.start_logits, wanted.end_logits), -1), mask)
        elif name == "BertForSequenceClassification":
            close(ours.classify(hidden[:, 0]), wanted.logits)
        elif name == "BertForTokenClassification":
            close(ours.classify_tokens(flat).view(3, 11, -1), wanted.logits, mask)
        elif name == "BertForNextSentencePrediction":
            close(ours.next_sentence(hidden[:, 0]), wanted.logits)
        else:
            logits = wanted.logits if name == "BertForMaskedLM" else wanted.prediction_logits
            close(ours.masked_lm(flat).view(3, 11, -1), logits, mask)
        if name == "BertForPreTraining":
            close(ours.next_sentence(hidden[:, 0]), wanted.seq_relationship_logits)


@pytest.mark.parametrize("config", T5S, ids=["tied", "gated-untied"])
@torch.inference_mode()
def test_t5(config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path) -> None:
    ids, mask, _ = inputs
    decoder_ids = ids.flip(1)[:, :9]
    theirs, ours, again = build("T5ForConditionalGeneration", config, tmp_path)
    memory = ours.encode_padded(ids, mask)
    everywhere = torch.ones_like(decoder_ids, dtype=torch.bool)
    logits = ours.logits(ours.decode_padded(decoder_ids, everywhere, memory, mask))
    for model in (theirs, again):
        close(logits, model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids).logits)


@pytest.mark.parametrize("config", LLAMAS, ids=["grouped-tied", "biased-untied"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_llama(
    config: dict[str, Any], side: str, inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    ids, mask, _ = inputs
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    theirs, ours, again = build("LlamaForCausalLM", config, tmp_path)
    logits = ours.logits(ours.decode_padded(ids, mask))
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    for model in (theirs, again):
        close(logits, model(input_ids=ids, attention_mask=mask, position_ids=positions).logits, mask)


@pytest.mark.parametrize(
    ("name", "config"),
    # Their cache cannot count layers where the decoder has more of them than the encoder.
    [("T5ForConditionalGeneration", c | {"num_decoder_layers": c["num_layers"]}) for c in T5S]
    + [("LlamaForCausalLM", c) for c in LLAMAS],
)
def test_greedy_tokens_are_the_same_for_64_steps(
    name: str, config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    theirs, ours, _ = build(name, config, tmp_path)
    theirs, ours = theirs.double(), ours.double()
    prompts = [inputs[0][0].tolist(), inputs[0][1, :7].tolist()]
    for prompt, got in zip(prompts, generate_greedy(ours, prompts, 64, ignore_eos=True), strict=True):
        given = 1 if name.startswith("T5") else len(prompt)
        assert got == their_tokens(theirs, prompt, 64)[given:]
