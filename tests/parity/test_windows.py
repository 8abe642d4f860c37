"""Families with attention windows against `transformers`: Mistral, Gemma 3, ModernBERT."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from model.adapters import add_adapter, load_adapter, save_adapter
from model.config import CheckpointError, TransformerConfig
from model.families import read_config
from model.greedy import generate_greedy
from model.loading import load_model
from model.transformer import Transformer
from tests.parity.published import build, close, their_tokens
from tests.parity.test_families import inputs  # noqa: F401 - a fixture

# Wide weights, so that attention is far from even and a key too many or too few shows.
SMALL: dict[str, Any] = {"vocab_size": 100, "intermediate_size": 48, "pad_token_id": 0}
SMALL |= {"initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2}
DECODER = SMALL | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
MISTRALS = [
    DECODER | {"num_key_value_heads": 2, "head_dim": 10, "sliding_window": 4, "tie_word_embeddings": True},
    DECODER | {"num_key_value_heads": 4, "sliding_window": None, "rope_theta": 500.0},
]
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
GEMMAS = [
    DECODER
    | {
        "num_key_value_heads": 2,
        "head_dim": 10,
        "sliding_window": 4,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 7,
        "rope_parameters": {
            "full_attention": LINEAR,
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    DECODER
    | {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
]
MODERNBERTS = [
    SMALL
    | {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "local_attention": 4,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    SMALL
    | {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "local_attention": 7,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 900.0,
        "local_rope_theta": 90.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "classifier_activation": "gelu_pytorch_tanh",
        "classifier_pooling": "mean",
        "tie_word_embeddings": False,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    | dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
]
DECODERS = [("MistralForCausalLM", c) for c in MISTRALS] + [("Gemma3ForCausalLM", c) for c in GEMMAS]
DECODER_IDS = ["mistral-window", "mistral-full", "gemma-scaled", "gemma-untied"]
MODERNBERT_HEADS = [
    "ModernBertModel",
    "ModernBertForMaskedLM",
    "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification",
    "ModernBertForQuestionAnswering",
]
Inputs = tuple[Tensor, Tensor, Tensor]


def without_windows(model: Transformer) -> Transformer:
    wide = Transformer(replace(model.config, layer_windows=()))
    wide.load_state_dict(model.state_dict())
    return wide.eval()


@pytest.mark.parametrize(("name", "config"), DECODERS, ids=DECODER_IDS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_windowed_decoders(
    name: str,
    config: dict[str, Any],
    side: str,
    inputs: Inputs,  # noqa: F811
    tmp_path: Path,
) -> None:
    ids, mask, _ = inputs
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    theirs, ours, again = build(name, config, tmp_path)
    logits = ours.logits(ours.decode_padded(ids, mask))
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    for model in (theirs, again):
        close(logits, model(input_ids=ids, attention_mask=mask, position_ids=positions).logits, mask)
    if config["sliding_window"] is not None:
        wide = without_windows(ours)
        assert (wide.logits(wide.decode_padded(ids, mask)) - logits)[mask].abs().max() > 0.01


@pytest.mark.parametrize(("name", "config"), DECODERS, ids=DECODER_IDS)
def test_greedy_tokens_are_the_same_for_64_steps(
    name: str,
    config: dict[str, Any],
    inputs: Inputs,  # noqa: F811
    tmp_path: Path,
) -> None:
    # Tied random tables say one token over and over, which would hide a difference.
    theirs, ours, _ = build(name, config | {"tie_word_embeddings": False}, tmp_path)
    theirs, ours = theirs.double(), ours.double()
    prompts = [inputs[0][0].tolist(), inputs[0][1, :2].tolist()]
    for prompt, got in zip(prompts, generate_greedy(ours, prompts, 64, ignore_eos=True), strict=True):
        assert got == their_tokens(theirs, prompt, 64)[len(prompt) :]
        assert len(set(got)) > 4


@pytest.mark.parametrize("config", MODERNBERTS, ids=["plain", "odd"])
@pytest.mark.parametrize("name", MODERNBERT_HEADS)
@torch.inference_mode()
def test_modernbert(
    name: str,
    config: dict[str, Any],
    inputs: Inputs,  # noqa: F811
    tmp_path: Path,
) -> None:
    ids, mask, _ = inputs
    labels = {"num_labels": 5} if name.endswith("Classification") else {}
    theirs, ours, again = build(name, config | labels, tmp_path)
    hidden = ours.encode_padded(ids, mask)
    flat = hidden.flatten(0, 1)
    for model in (theirs, again):
        wanted = model(input_ids=ids, attention_mask=mask)
        if name == "ModernBertModel":
            close(hidden, wanted.last_hidden_state, mask)
        elif name == "ModernBertForMaskedLM":
            close(ours.masked_lm(flat).view(3, 11, -1), wanted.logits, mask)
        elif name == "ModernBertForSequenceClassification":
            close(ours.classify(ours.pool(hidden, mask)), wanted.logits)
        elif name == "ModernBertForTokenClassification":
            close(ours.classify_tokens(flat).view(3, 11, -1), wanted.logits, mask)
        else:
            close(ours.span(hidden), torch.stack((wanted.start_logits, wanted.end_logits), -1), mask)
    if name == "ModernBertModel":
        assert (without_windows(ours).encode_padded(ids, mask) - hidden)[mask].abs().max() > 0.01
        ids, mask = ids.flip(1), mask.flip(1)
        close(ours.encode_padded(ids, mask), theirs(input_ids=ids, attention_mask=mask)[0], mask)


def rewrite(folder: Path, drop: list[str], **changes: Any) -> None:
    """The same config in other words."""
    file = folder / "config.json"
    raw = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in raw.items() if key not in drop}))


@pytest.mark.parametrize(
    ("name", "config", "old"),
    [
        (
            "Gemma3ForCausalLM",
            GEMMAS[0],
            {
                "rope_theta": 5000.0,
                "rope_local_base_freq": 100.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window_pattern": 2,
            },
        ),
        (
            "ModernBertModel",
            MODERNBERTS[1],
            {"global_rope_theta": 900.0, "local_rope_theta": 90.0, "global_attn_every_n_layers": 2},
        ),
    ],
    ids=["gemma", "modernbert"],
)
def test_old_spelling_of_thetas_and_layers_reads_the_same(
    name: str, config: dict[str, Any], old: dict[str, Any], tmp_path: Path
) -> None:
    build(name, config, tmp_path)
    folder = tmp_path / "theirs"
    new = read_config(folder)
    assert read_config(tmp_path / "ours") == new
    rewrite(folder, ["rope_parameters", "layer_types", "_sliding_window_pattern"], **old)
    assert read_config(folder) == new
    assert len(set(new.layer_windows)) == len(set(new.layer_rope_thetas)) == 2


def published(folder: Path, raw: dict[str, Any]) -> TransformerConfig:
    (folder / "config.json").write_text(json.dumps(raw))
    return read_config(folder)


def test_published_configs_with_little_in_them_take_the_defaults(tmp_path: Path) -> None:
    shape = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}
    mistral = published(tmp_path, shape | {"model_type": "mistral", "num_hidden_layers": 2})
    assert (mistral.layer_windows, mistral.num_kv_heads) == ((4096, 4096), 8)
    gemma = published(tmp_path, shape | {"model_type": "gemma3_text", "num_hidden_layers": 7})
    assert gemma.layer_windows == (4096,) * 5 + (0, 4096)
    assert gemma.layer_rope_thetas == (10_000.0,) * 5 + (1_000_000.0, 10_000.0)
    assert (gemma.head_dim, gemma.attention_scale, gemma.embedding_scale) == (256, 1 / 16, 8.0)
    encoder = published(tmp_path, shape | {"model_type": "modernbert", "num_hidden_layers": 4})
    assert encoder.layer_windows == (0, 65, 65, 0)
    assert encoder.layer_rope_thetas == (160_000.0, 10_000.0, 10_000.0, 160_000.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window 0"),
        ("mistral", {"sliding_window": -4}, "an attention window of -4"),
        ("mistral", {"architectures": ["MistralForTokenClassification"]}, "not served as a classifier"),
        ("gemma3", {"architectures": ["Gemma3ForConditionalGeneration"]}, "it reads images too"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "1 attention windows for 2 layers"),
        ("gemma3_text", {"layer_types": ["chunked_attention"] * 2}, "'chunked_attention'"),
        ("gemma3_text", {"sliding_window": None}, "without a sliding_window"),
        ("gemma3_text", {"rope_scaling": {"type": "yarn", "factor": 2}}, "rope scaling of kind 'yarn'"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "not by type of layer"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling 'max'"),
        ("modernbert", {"decoder_bias": False}, "decoder_bias"),
        ("modernbert", {"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope scaling"),
        (
            "modernbert",
            {"architectures": ["ModernBertForMaskedLM"], "classifier_activation": "relu"},
            "classifier_activation",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_config_that_cannot_be_served_is_refused_in_one_line(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    shape = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}
    raw = shape | {"model_type": name, "num_hidden_layers": 2} | changes
    with pytest.raises(CheckpointError, match=message) as raised:
        published(tmp_path, raw)
    assert "\n" not in str(raised.value)


def test_a_fused_tensor_of_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    config = hf.ModernBertConfig(**MODERNBERTS[0])
    hf.ModernBertModel(config).save_pretrained(tmp_path)
    rewrite(tmp_path, [], intermediate_size=50)
    with pytest.raises(
        CheckpointError, match=r"mlp\.Wi\.weight: shape \[96, 32\], but config.json needs \[100, 32\]"
    ):
        load_model(tmp_path)


@torch.inference_mode()
def test_gemma_embeds_and_norms_in_half_precision_as_transformers_does(tmp_path: Path) -> None:
    """Its scale is rounded to bfloat16 before it is used; one is added to weights before they are rounded."""
    theirs, ours, _ = build("Gemma3ForCausalLM", GEMMAS[1], tmp_path)
    theirs, ours = theirs.bfloat16(), ours.bfloat16()
    ids = torch.arange(3, 100)
    embedded = theirs.model.embed_tokens(ids)
    assert torch.equal(ours.embeddings(ids, ids), embedded)
    assert ours.decoder is not None
    assert ours.decoder.final_norm is not None
    assert torch.equal(ours.decoder.final_norm(embedded), theirs.model.norm(embedded))


def test_an_adapter_on_fused_projections_is_refused_and_one_beside_them_is_kept(tmp_path: Path) -> None:
    build("ModernBertModel", MODERNBERTS[0], tmp_path)
    model = load_model(tmp_path / "ours")
    config = replace(model.config, head="sequence-class", labels=("no", "yes"))
    add_adapter(model, "all", config, rank=2, alpha=4)
    with pytest.raises(CheckpointError, match=r"Wqkv cannot be written"):
        save_adapter(model, "all", config, tmp_path / "all", "base")
    beside = r"encoder\.layers\.\d+\.(self_attention\.output|mlp\.down)"
    for parameter in add_adapter(model, "some", config, 2, 4, beside):
        parameter.data.normal_(std=0.3)
    save_adapter(model, "some", config, tmp_path / "some", "base")
    again = load_model(tmp_path / "ours")
    assert load_adapter(again, "some", tmp_path / "some") == config
    ids = torch.arange(3, 20)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.inference_mode():
        ours, kept = (
            m.classify(m.pool(m.encode_padded(ids, mask, adapter="some"), mask, "some"), "some")
            for m in (model.eval(), again)
        )
    torch.testing.assert_close(kept, ours)
