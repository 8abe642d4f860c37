"""The encoder-decoder families against `transformers`: logits, labels and greedy tokens, read and written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import CheckpointError
from model.families import read_config
from model.greedy import generate_greedy
from model.loading import load_model
from model.transformer import Transformer
from tests.parity.published import build, close, their_tokens
from tests.parity.test_families import T5S

SMALL: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "max_position_embeddings": 80}
EVEN: dict[str, Any] = SMALL | {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
ODD: dict[str, Any] = SMALL | {
    "d_model": 30,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 56,
}
MARIAN = {"pad_token_id": 99, "decoder_start_token_id": 99, "eos_token_id": 0, "activation_function": "swish"}
NLLB = {"activation_function": "relu", "scale_embedding": True}
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "BartForConditionalGeneration": [EVEN, ODD | {"scale_embedding": True, "activation_function": "relu"}],
    "BartModel": [EVEN, ODD],
    "MBartForConditionalGeneration": [
        EVEN | {"scale_embedding": True},
        ODD | {"decoder_start_token_id": 2, "activation_function": "gelu_new"},
    ],
    "MarianMTModel": [EVEN | MARIAN | {"scale_embedding": True}, ODD | MARIAN],
    "M2M100ForConditionalGeneration": [EVEN | NLLB, ODD | {"scale_embedding": False, "pad_token_id": 3}],
    "PegasusForConditionalGeneration": [EVEN | {"scale_embedding": True, "activation_function": "relu"}, ODD],
}
T5 = T5S[0]
GATED: dict[str, Any] = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES = [(name, config) for name, configs in FAMILIES.items() for config in configs]
CASES += [("MT5ForConditionalGeneration", config) for config in (T5, GATED)]
CASES += [("T5ForConditionalGeneration", GATED | {"feed_forward_proj": "gated-silu"})]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Three sources of different lengths, padded on the right, and what the decoder reads."""
    torch.manual_seed(1)
    mask = torch.arange(11) < torch.tensor([[11], [7], [1]])
    return torch.randint(4, 99, (3, 11)), mask, torch.randint(4, 99, (3, 9))


def our_hidden(ours: Transformer, ids: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
    memory = ours.encode_padded(ids, mask)
    return ours.decode_padded(decoder_ids, torch.ones_like(decoder_ids, dtype=torch.bool), memory, mask)


@pytest.mark.parametrize(("name", "config"), CASES, ids=IDS)
@torch.inference_mode()
def test_logits(
    name: str, config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    ids, mask, decoder_ids = inputs
    theirs, ours, again = build(name, config, tmp_path)
    hidden = our_hidden(ours, *inputs)
    for model in (theirs, again):
        wanted = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids)
        if name == "BartModel":
            close(hidden, wanted.last_hidden_state)
        else:
            close(ours.logits(hidden), wanted.logits)


@torch.inference_mode()
def test_padding_on_the_left_where_positions_count_from_it(
    inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    ids, mask, decoder_ids = inputs[0].flip(1), inputs[1].flip(1), inputs[2]
    theirs, ours, _ = build("M2M100ForConditionalGeneration", EVEN | NLLB, tmp_path)
    wanted = theirs(input_ids=ids.masked_fill(~mask, 1), attention_mask=mask, decoder_input_ids=decoder_ids)
    close(ours.logits(our_hidden(ours, ids, mask, decoder_ids)), wanted.logits)


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "MT5ForConditionalGeneration"])
@torch.inference_mode()
def test_an_output_table_of_its_own_is_known_by_its_weights(
    name: str, inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    """`transformers` 5 writes that all T5s are tied, and stores what is not."""
    ids, mask, decoder_ids = inputs
    theirs, ours, again = build(name, GATED, tmp_path, is_tied=False)
    assert not ours.config.tie_embeddings
    logits = ours.logits(our_hidden(ours, *inputs))
    for model in (theirs, again):
        close(logits, model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids).logits)


@pytest.mark.parametrize(
    "config",
    [EVEN | {"num_labels": 3}, ODD | {"num_labels": 5, "problem_type": "multi_label_classification"}],
)
@torch.inference_mode()
def test_bart_classifies_by_its_decoder_at_the_last_end_token(
    config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    ids, mask, _ = inputs
    ids = ids.masked_fill(~mask, 1)
    ids[:, 0] = 2  # each text has as many end tokens, or theirs refuses
    last = mask.sum(1) - 1
    ids[torch.arange(2), last[:2]] = 2
    theirs, ours, again = build("BartForSequenceClassification", config, tmp_path)
    assert ours.config.multi_label == ("problem_type" in config)
    logits = ours.classify(ours.echo_padded(ids[:2], mask[:2]))
    alone = ours.classify(ours.echo_padded(ids[2:, :1], mask[2:, :1]))
    for model in (theirs, again):
        close(logits, model(input_ids=ids[:2], attention_mask=mask[:2]).logits)
        close(alone, model(input_ids=ids[2:, :1], attention_mask=mask[2:, :1]).logits)


@pytest.mark.parametrize(
    ("name", "config"), [case for case in CASES if case[0] != "BartModel"], ids=lambda c: str(c)[:12]
)
def test_greedy_tokens_are_the_same_for_64_steps(
    name: str, config: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    """With a forced first token, and with the padding token suppressed as Marian's bad words say."""
    theirs, ours, _ = build(name, config, tmp_path)
    theirs, ours = theirs.double(), ours.double()
    prompts = [inputs[0][0].tolist(), inputs[0][1, :7].tolist()]
    start, pad = ours.config.decoder_start_token_id, ours.config.pad_token_id
    for forced, bad in ((None, []), (7, [pad, 5])):
        got = generate_greedy(ours, prompts, 64, True, forced, bad)
        for prompt, tokens in zip(prompts, got, strict=True):
            generated = their_tokens(
                theirs,
                prompt,
                64 + (forced is not None),
                forced_eos_token_id=None,
                forced_bos_token_id=forced,
                bad_words_ids=[[token] for token in bad] or None,
                decoder_start_token_id=start,
                pad_token_id=pad,
            )
            given = [start] if forced is None else [start, forced]
            assert generated == given + tokens


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_the_word_table_may_be_stored_under_its_other_names(name: str, tmp_path: Path) -> None:
    config = EVEN if name.startswith("Bart") else T5
    prefix = "model." if name.startswith("Bart") else ""
    _, ours, _ = build(name, config, tmp_path)
    folder = tmp_path / "ours"
    tensors = load_file(folder / "model.safetensors")
    words = tensors.pop(f"{prefix}shared.weight")
    for copies in (("decoder.embed_tokens",), ("encoder.embed_tokens", "shared"), ("shared",)):
        named = {f"{prefix}{copy}.weight": words.clone() for copy in copies} | {
            "lm_head.weight": words.clone()
        }
        save_file(tensors | named, folder / "model.safetensors")
        again = load_model(folder)
        assert again.config == ours.config
        assert torch.equal(again.embeddings.words.weight, words)
        assert again.lm_head is None
    named = {f"{prefix}shared.weight": words, f"{prefix}encoder.embed_tokens.weight": words + 1}
    save_file(tensors | named, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.embed_tokens\.weight: differs"):
        load_model(folder)


def test_sinusoids_and_a_bias_of_nought_need_not_be_stored(tmp_path: Path) -> None:
    _, ours, _ = build("MarianMTModel", EVEN | MARIAN, tmp_path)
    file = tmp_path / "ours" / "model.safetensors"
    tensors = load_file(file)
    assert not any("embed_positions" in name for name in tensors)
    del tensors["final_logits_bias"]
    save_file(tensors | {"model.encoder.embed_positions.weight": torch.zeros(80, 32)}, file)
    again = load_model(tmp_path / "ours")
    assert again.logit_bias is not None
    assert not again.logit_bias.any()
    assert again.embeddings.sinusoids is not None
    assert torch.equal(again.embeddings.sinusoids, ours.embeddings.sinusoids)  # type: ignore[arg-type]
    assert load_model(tmp_path / "ours", torch.bfloat16).logits(torch.ones(1, 32).bfloat16()).shape == (
        1,
        100,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "umt5"}, "umt5 is not served: each of its layers"),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads other than"),
        ({"decoder_ffn_dim": 2}, "encoder_ffn_dim other than"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings false"),
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "cannot be cut into 5"),
        ({"d_model": 33, "encoder_attention_heads": 3, "decoder_attention_heads": 3}, "even hidden size"),
        ({"share_encoder_decoder_embeddings": False}, "vocabulary for each"),
        ({"decoder_vocab_size": 50}, "vocabulary for each"),
        ({"architectures": ["MarianForCausalLM"]}, "unknown architecture"),
        ({"decoder_layers": None}, "'decoder_layers' is missing"),
        ({"decoder_start_token_id": 100}, r"decoder_start_token_id must be an integer in 0\.\.99"),
        ({"model_type": "t5"} | T5 | {"feed_forward_proj": "half-gelu"}, "'half-gelu' is not served"),
    ],
)
def test_configs_that_are_not_served_say_why_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    raw: dict[str, Any] = EVEN | MARIAN | {"model_type": "marian"} | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}") as refused:
        read_config(tmp_path)
    assert "\n" not in str(refused.value)
