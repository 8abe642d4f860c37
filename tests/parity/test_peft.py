"""LoRA folders that `peft` wrote for decoders: the same logits, and base and adapter in one batch."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.engine.protocol import AdapterSpec
from app.tasks.served import read_served
from model.adapters import add_adapter, load_adapter, save_adapter
from model.config import CheckpointError
from model.greedy import generate_greedy
from model.loading import load_model
from model.transformer import Transformer
from tests.api.folders import byte_tokenizer
from tests.engine.test_engine import drain, greedy, make_engine
from tests.model.test_packing import needs_onednn
from tests.parity.published import build, close
from tests.parity.test_decoders import MODELS
from tests.parity.test_families import LLAMA

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning"),
]

MODELS = MODELS | {
    "llama": ("LlamaForCausalLM", LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2})
}
ATTENTION = ["q_proj", "v_proj"]
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ATTENTION}),
    "patterns": (
        "llama",
        {
            "target_modules": [*ATTENTION, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "rank_pattern": {"v_proj": 2, "layers.1.mlp.down_proj": 5},
            "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 3, "q_proj": 20},
        },
    ),
    "rslora": ("llama", {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"o_proj": 7}}),
    "whole-head": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
    "head": ("llama", {"target_modules": [*ATTENTION, "lm_head"]}),
    "whole-layer": ("qwen2", {"target_modules": ["up_proj"], "modules_to_save": ["k_proj", "lm_head"]}),
    "qwen3": ("qwen3", {"target_modules": ["q_proj", "k_proj", "down_proj"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2-whole": (
        "gpt2",
        {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"], "fan_in_fan_out": True},
    ),
}
RANDOM = 0.2


def make(name: str, folder: Path) -> tuple[Transformer, Any, Path]:
    """Our base, their model with the adapter, and the adapter's folder."""
    base, settings = ADAPTERS[name]
    theirs, ours, _ = build(*MODELS[base], folder)
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=6, **settings)).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * RANDOM
    adapted.save_pretrained(folder / "adapter")
    return ours, adapted, folder / "adapter"


def adapted_logits(model: Transformer, ids: Tensor, name: str | None) -> Tensor:
    hidden = model.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool), adapter=name)
    spans = ((name, 0, ids.numel()),) if name else ()
    return model.logits(hidden.flatten(0, 1), spans).view(*ids.shape, -1)


@pytest.mark.parametrize("name", ADAPTERS)
@torch.inference_mode()
def test_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    ours, adapted, folder = make(name, tmp_path)
    load_adapter(ours, "mine", folder)
    ids = torch.randint(3, 100, (2, 13))
    close(adapted_logits(ours, ids, "mine"), adapted(input_ids=ids).logits)
    with adapted.disable_adapter():
        base = adapted(input_ids=ids).logits
    close(adapted_logits(ours, ids, None), base)
    assert (adapted_logits(ours, ids, "mine") - base).abs().max() > 0.01


@pytest.mark.parametrize("name", ["patterns", "whole-head", "gpt2"])
def test_the_engine_serves_base_and_adapters_in_one_batch(name: str, tmp_path: Path) -> None:
    ours, _, folder = make(name, tmp_path)
    load_adapter(ours.double(), "mine", folder)
    adapters = [AdapterSpec("mine", "base", str(folder)), AdapterSpec("other", "base", str(folder))]
    engine = make_engine({"base": tmp_path / "theirs"}, adapters, token_budget=16)
    names = ("base", "mine", "other")
    prompts = [[5 + i, 9, 11 + i, 4][: 1 + i % 4] for i in range(9)]
    for i, prompt in enumerate(prompts):
        engine.add(greedy(i, names[i % 3], prompt, 12, ignore_eos=True))
    tokens: dict[int, list[int]] = {}
    mixed = engine.step().outputs
    assert len(mixed) > 3
    for output in mixed:
        tokens[output.id] = list(getattr(output, "token_ids", []))
    drain(engine, tokens, {})
    for i, prompt in enumerate(prompts):
        adapter = None if i % 3 == 0 else "mine"
        assert tokens[i] == generate_greedy(ours, [prompt], 12, ignore_eos=True, adapter=adapter)[0]
    alone = generate_greedy(ours, prompts, 12, ignore_eos=True)
    assert any(tokens[i] != alone[i] for i in range(9))


@needs_onednn
@pytest.mark.parametrize("name", ADAPTERS)
@torch.inference_mode()
def test_a_packed_base_takes_every_adapter(name: str, tmp_path: Path) -> None:
    ours, adapted, folder = make(name, tmp_path)
    ours.pack()
    load_adapter(ours, "mine", folder)
    ids = torch.randint(3, 100, (2, 13))
    close(adapted_logits(ours, ids, "mine"), adapted(input_ids=ids).logits)
    with adapted.disable_adapter():
        close(adapted_logits(ours, ids, None), adapted(input_ids=ids).logits)


@needs_onednn
def test_a_packed_base_serves_low_rank_and_whole_layers_in_one_batch(tmp_path: Path) -> None:
    adapters = {name: make(name, tmp_path / name)[2] for name in ("patterns", "head", "whole-head")}
    base = tmp_path / "patterns" / "theirs"
    plain = load_model(base)
    for name, folder in adapters.items():
        load_adapter(plain, name, folder)
    specs = [AdapterSpec(name, "base", str(folder)) for name, folder in adapters.items()]
    engine = make_engine({"base": base}, specs, dtype="float32", token_budget=32)
    assert any(parameter.is_meta for parameter in engine._runners["base"].model.parameters())
    names = ("base", *adapters)
    requests = [greedy(i, names[i % 4], [5 + i, 9, 11 + i, 4][: 1 + i % 3], 12, True) for i in range(12)]
    for request in requests:
        engine.add(request)
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    for request in requests:
        adapter = None if request.model == "base" else request.model
        wanted = generate_greedy(plain, [request.prompt_ids], 12, ignore_eos=True, adapter=adapter)[0]
        assert tokens[request.id] == wanted, request


def test_a_folder_without_config_is_served_with_what_the_base_has(tmp_path: Path) -> None:
    _, _, folder = make("plain", tmp_path)
    byte_tokenizer(pair_template=False).save(str(tmp_path / "theirs" / "tokenizer.json"))
    (tmp_path / "theirs" / "generation_config.json").write_text('{"eos_token_id": [2, 4], "top_k": 7}')
    base = read_served("base", tmp_path / "theirs")
    served = read_served("mine", folder, base)
    assert served.config == base.config
    assert served.config.eos_token_ids == (2, 4)
    assert (served.base, served.generation) == ("base", base.generation)
    assert [task.name for task in served.tasks] == [task.name for task in base.tasks]


@torch.inference_mode()
def test_what_we_write_for_a_decoder_peft_reads(tmp_path: Path) -> None:
    ours, adapted, folder = make("patterns", tmp_path)
    config = load_adapter(ours, "mine", folder)
    save_adapter(ours, "mine", config, tmp_path / "again", "base")
    theirs = hf.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(theirs, tmp_path / "again").eval()
    ids = torch.randint(3, 100, (2, 13))
    close(again(input_ids=ids).logits, adapted(input_ids=ids).logits)


def test_a_fused_or_whole_layer_cannot_be_written(tmp_path: Path) -> None:
    ours, _, folder = make("gpt2", tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_adapter(ours, "mine", load_adapter(ours, "mine", folder), tmp_path / "again", "base")
    assert add_adapter(ours, "fresh", ours.config, rank=2, alpha=4, targets=r".*\.output")
    save_adapter(ours, "fresh", ours.config, tmp_path / "fresh", "base")
    load_adapter(load_model(tmp_path / "theirs"), "fresh", tmp_path / "fresh")


def _settings(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _tensors(folder: Path, change: dict[str, Tensor]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | change, file)


DOWN = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
BROKEN: dict[str, tuple[Any, str]] = {
    "kind": (lambda f: _settings(f, peft_type="IA3"), "only LoRA adapters are served, not 'IA3'"),
    "dora": (lambda f: _settings(f, use_dora=True), "use_dora"),
    "bias": (lambda f: _settings(f, bias="all"), "bias 'all'"),
    "pissa": (lambda f: _settings(f, init_lora_weights="pissa"), "init_lora_weights 'pissa'"),
    "rank": (lambda f: _settings(f, r=3), "do not fit the base and rank 3"),
    "rank of nothing": (lambda f: _settings(f, r="many"), "adapter_config.json: invalid literal"),
    "pattern": (lambda f: _settings(f, alpha_pattern={"(": 1}), "adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "NaN": (lambda f: _tensors(f, {DOWN: torch.full((4, 32), torch.nan)}), r"v_proj\.lora_A.*NaN"),
    "shape": (lambda f: _tensors(f, {DOWN: torch.zeros(4, 31)}), r"layers\.1\.self_attn\.v_proj.*do not fit"),
    "whole beside low rank": (
        lambda f: _tensors(f, {DOWN.replace("lora_A.", ""): torch.zeros(16, 32)}),
        r"adapter_model\.safetensors: two updates of one layer",
    ),
    "table": (
        lambda f: _tensors(f, {"base_model.model.model.embed_tokens.weight": torch.zeros(100, 32)}),
        r"left over model\.embed_tokens\.weight",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_the_base_alone(
    fault: str, tmp_path: Path
) -> None:
    ours, _, folder = make("plain", tmp_path)
    damage, message = BROKEN[fault]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_adapter(ours, "mine", folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not any("adapters" in name for name, _ in ours.named_parameters())


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    _, _, folder = make("qwen3", tmp_path)
    other = load_model(build(*MODELS["llama"], tmp_path / "other") and tmp_path / "other" / "ours")
    with pytest.raises(CheckpointError, match="do not fit the base"):
        load_adapter(other, "mine", folder)
    (folder / "config.json").write_text((tmp_path / "theirs" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"config\.json: not an adapter for this base: family is qwen3"):
        load_adapter(other, "mine", folder)
    assert not any("adapters" in name for name, _ in other.named_parameters())
