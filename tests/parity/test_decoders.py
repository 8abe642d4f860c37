"""Decoder-only families against `transformers`: GPT-2, Qwen2, Qwen3, and Llama's rotary scalings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model.config import CheckpointError
from model.families import read_config
from model.families.rope import read_rope
from model.greedy import generate_greedy
from model.layers.positions import Rotary
from model.loading import load_model
from model.transformer import Transformer
from tests.parity.published import build, close, their_tokens
from tests.parity.test_families import LLAMA

GPT2: dict[str, Any] = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_positions": 90}
QWEN = LLAMA | {"max_position_embeddings": 64, "eos_token_id": [2, 7]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": YARN,
    "yarn-told": YARN | {"attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
    "yarn-mscale": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    "llama3": LLAMA3 | {"original_max_position_embeddings": 16},
}
SCALED = LLAMA | {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2 | {"n_head": 4}),
    "gpt2-odd": (
        "GPT2LMHeadModel",
        GPT2
        | {
            "n_head": 2,
            "n_inner": 40,
            "activation_function": "relu",
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    "qwen2": ("Qwen2ForCausalLM", QWEN | {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen2-tied-yarn": (
        "Qwen2ForCausalLM",
        QWEN
        | {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_theta": 1e6, **YARN}},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        QWEN | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10},
    ),
    "qwen2-windows": (
        "Qwen2ForCausalLM",
        QWEN
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
        | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3-windows": (
        "Qwen3ForCausalLM",
        QWEN
        | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10, "num_hidden_layers": 3}
        | {"use_sliding_window": True, "sliding_window": 5}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3-biased-tied": (
        "Qwen3ForCausalLM",
        QWEN
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12}
        | {"attention_bias": True, "tie_word_embeddings": True},
    ),
} | {
    f"llama-{name}": ("LlamaForCausalLM", SCALED | {"rope_parameters": {"rope_theta": 500.0, **scaling}})
    for name, scaling in SCALINGS.items()
}


def logits_of(model: Transformer, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.logits(model.decode_padded(ids, torch.ones_like(ids) > 0 if mask is None else mask))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_logits(name: str, side: str, tmp_path: Path) -> None:
    """Longer than the length that the scaled ones were trained to."""
    torch.manual_seed(1)
    ids, mask = torch.randint(3, 100, (3, 40)), torch.arange(40) < torch.tensor([[40], [17], [1]])
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    theirs, ours, again = build(*MODELS[name], tmp_path)
    assert read_config(tmp_path / "ours") == ours.config
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    for model in (theirs, again):
        wanted = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        close(logits_of(ours, ids, mask), wanted, mask)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_the_same_for_64_steps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs, ours, _ = build(*MODELS[name], tmp_path)
    theirs, ours = theirs.double(), ours.double()
    prompts = [torch.randint(3, 100, (length,)).tolist() for length in (11, 5)]
    for prompt, got in zip(prompts, generate_greedy(ours, prompts, 64, ignore_eos=True), strict=True):
        assert got == their_tokens(theirs, prompt, 64)[len(prompt) :]


@pytest.mark.parametrize(
    "scaling", [{"rope_type": "default"}, *SCALINGS.values()], ids=lambda s: s["rope_type"]
)
def test_rotary_angles_are_the_same_numbers_at_far_positions(scaling: dict[str, Any]) -> None:
    length = 300_000 if scaling["rope_type"] == "dynamic" else 96
    raw = {"max_position_embeddings": length, "rope_parameters": {"rope_theta": 500000.0, **scaling}}
    config = hf.LlamaConfig(hidden_size=256, num_attention_heads=2, **raw)
    read = read_rope(raw)
    rotary = Rotary(128, read["rope_theta"], read.get("rope_scaling"))
    positions = torch.tensor([0, 1, 77, 4096, 131_071, 299_999])
    for dtype in (torch.float32, torch.bfloat16):
        wanted = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=dtype), positions[None])
        cosine, sine = rotary(positions, dtype)
        assert torch.equal(cosine[:, 0], wanted[0][0])
        assert torch.equal(sine[:, 0], torch.cat((-wanted[1][0, :, :64], wanted[1][0, :, 64:]), dim=-1))


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
@torch.inference_mode()
def test_the_old_spelling_of_rotary_scaling_means_the_same(name: str, tmp_path: Path) -> None:
    _, ours, _ = build(*MODELS[f"llama-{name}"], tmp_path)
    file = tmp_path / "theirs" / "config.json"
    raw = json.loads(file.read_text())
    scaling = raw.pop("rope_parameters")
    raw |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    scaling["type"] = scaling.pop("rope_type")
    file.write_text(json.dumps(raw))
    assert read_config(tmp_path / "theirs") == ours.config
    raw["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    file.write_text(json.dumps(raw))
    assert read_config(tmp_path / "theirs") == ours.config, "the old spelling counts"
    ids = torch.randint(3, 100, (1, 40))
    again = hf.LlamaForCausalLM.from_pretrained(tmp_path / "theirs")
    close(logits_of(ours, ids), again(input_ids=ids).logits)


@torch.inference_mode()
def test_dynamic_scaling_ends_where_its_frequencies_begin_to_move(tmp_path: Path) -> None:
    theirs, ours, _ = build(*MODELS["llama-dynamic"], tmp_path)
    ids = torch.randint(3, 100, (1, 97))
    close(logits_of(ours, ids[:, :96]), theirs(input_ids=ids[:, :96]).logits)
    with pytest.raises(ValueError, match="this model ends at 96"):
        logits_of(ours, ids)


def test_the_windows_of_qwen_are_those_of_its_last_layers_or_as_listed(tmp_path: Path) -> None:
    _, ours, _ = build(*MODELS["qwen3-windows"], tmp_path / "listed")
    assert ours.config.layer_windows == (5, 0, 5)
    _, ours, _ = build(*MODELS["qwen2-windows"], tmp_path / "last")
    assert ours.config.layer_windows == (0, 6, 6)
    file = tmp_path / "last" / "theirs" / "config.json"
    raw = json.loads(file.read_text())
    del raw["layer_types"]  # as the published files are
    for changes, windows in (
        ({}, (0, 6, 6)),
        ({"max_window_layers": 28}, ()),
        ({"sliding_window": None}, ()),
        ({"use_sliding_window": False}, ()),
    ):
        file.write_text(json.dumps(raw | changes))
        assert read_config(file.parent).layer_windows == windows


def test_yarn_stretches_the_length_that_is_served(tmp_path: Path) -> None:
    name, config = MODELS["qwen2-tied-yarn"]
    _, ours, _ = build(name, config | {"max_position_embeddings": 16}, tmp_path)
    assert ours.config.max_positions == 64


@torch.inference_mode()
def test_gpt2_as_it_was_published_first(tmp_path: Path) -> None:
    """Names of the bare model, and the causal mask stored in each layer."""
    theirs, ours, _ = build(*MODELS["gpt2"], tmp_path)
    file = tmp_path / "theirs" / "model.safetensors"
    bare = {key.removeprefix("transformer."): value for key, value in load_file(file).items()}
    for layer in range(2):
        bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 90, 90, dtype=torch.uint8).tril()
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(bare, file)
    ids = torch.randint(3, 100, (2, 9))
    again = load_model(tmp_path / "theirs")
    assert torch.equal(logits_of(again, ids), logits_of(ours, ids))
    assert all(parameter.is_contiguous() for parameter in again.parameters())
    close(logits_of(again, ids), theirs(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_shards_that_transformers_wrote(name: str, tmp_path: Path) -> None:
    theirs, ours, _ = build(*MODELS[name], tmp_path)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    ids = torch.randint(3, 100, (2, 9))
    assert torch.equal(logits_of(load_model(tmp_path / "shards"), ids), logits_of(ours, ids))


@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied-yarn"])
def test_a_tied_head_is_one_with_the_table_whichever_is_stored(name: str, tmp_path: Path) -> None:
    _, ours, _ = build(*MODELS[name], tmp_path)
    file = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(file)
    table = next(key for key in tensors if key.endswith(("wte.weight", "embed_tokens.weight")))
    save_file(tensors | {"lm_head.weight": tensors[table].clone()}, file)
    both = load_model(tmp_path / "theirs")
    assert both.lm_head is None
    assert both.num_parameters == ours.num_parameters
    save_file({k: v for k, v in tensors.items() if k != table} | {"lm_head.weight": tensors[table]}, file)
    ids = torch.randint(3, 100, (2, 9))
    assert torch.equal(logits_of(load_model(tmp_path / "theirs"), ids), logits_of(both, ids))
    save_file(tensors | {"lm_head.weight": tensors[table] + 1}, file)
    with pytest.raises(CheckpointError, match=r"(wte|embed_tokens)\.weight: differs from the weight"):
        load_model(tmp_path / "theirs")


def test_end_tokens_are_one_or_many_and_generation_config_counts(tmp_path: Path) -> None:
    build(*MODELS["qwen2"], tmp_path)
    folder = tmp_path / "theirs"
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert read_config(folder).eos_token_ids == (2, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert read_config(folder).eos_token_ids == (5,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 9]}')
    assert read_config(folder).eos_token_ids == (5, 9)
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    assert read_config(folder).eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_head": 5}, "n_embd 32 is not a multiple of n_head 5"),
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "unknown architecture"),
        ("qwen2-windows", {"sliding_window": 0}, "sliding_window is not set or not used"),
        ("qwen2-windows", {"sliding_window": -6}, "an attention window of -6"),
        ("qwen2-windows", {"use_sliding_window": False}, "sliding_window is not set or not used"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
        ("qwen2", {"architectures": ["Qwen2ForSequenceClassification"]}, "not served as a classifier"),
        ("llama-linear", {"architectures": ["LlamaForSequenceClassification"]}, "not served as a classifier"),
        ("llama-linear", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama-linear", {"rope_scaling": {"type": "linear"}}, "linear rope scaling needs a positive factor"),
        ("llama-linear", {"rope_scaling": {"type": "longrope"}}, "rope scaling of kind 'longrope'"),
        ("llama-linear", {"rope_scaling": "linear"}, "rope settings must be an object"),
        ("llama-linear", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "below its high_freq_factor"),
    ],
)
def test_what_is_not_served_is_said_in_words(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    build(*MODELS[name], tmp_path)
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message) as raised:
        read_config(tmp_path / "theirs")
    assert str(raised.value).startswith(str(file))
