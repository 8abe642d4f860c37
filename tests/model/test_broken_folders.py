"""Broken checkpoint folders: each is refused in one line that names the file, and the tensor where one is at fault."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.engine.build import build_engine
from app.engine.protocol import ModelSpec, WorkerConfig
from app.tasks.served import read_served
from model.config import CheckpointError
from model.loading import load_model, save_model, stored_dtype
from model.stored import INDEX, WEIGHTS
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer
from tests.tiny import LLAMA, random_model

NORM = "model.layers.1.input_layernorm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path / "llama")
    byte_tokenizer(pair_template=False).save(str(tmp_path / "llama" / "tokenizer.json"))
    (tmp_path / "llama" / "tokenizer_config.json").write_text("{}")
    return tmp_path / "llama"


def config(**changes: object) -> Damage:
    """With keys of `config.json` changed; None takes one out."""

    def damage(folder: Path) -> None:
        file = folder / "config.json"
        raw = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))

    return damage


def text(name: str, content: str | bytes) -> Damage:
    """With a file's content replaced."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    """With the weights changed."""

    def damage(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        change(stored)
        save_file(stored, folder / WEIGHTS)

    return damage


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """With the header of the weights rewritten, and the bytes after it left alone."""

    def damage(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        new = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])

    return damage


def shards(change: Callable[[Path, dict[str, str]], object] = lambda folder, index: None) -> Damage:
    """Cut in two files with an index, and then changed."""

    def damage(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        index = {name: SHARDS[i % 2] for i, name in enumerate(sorted(stored))}
        for shard in SHARDS:
            save_file({n: t for n, t in stored.items() if index[n] == shard}, folder / shard)
        change(folder, index)
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))

    return damage


def twice_in_index(folder: Path) -> None:
    shards()(folder)
    written = (folder / INDEX).read_text()
    entry = json.dumps({QUERY: SHARDS[0]})[1:-1]
    (folder / INDEX).write_text(written.replace('{"weight_map": {', '{"weight_map": {' + entry + ", "))


def stored_twice(folder: Path, index: Mapping[str, str]) -> None:
    other = next(shard for shard in SHARDS if shard != index[QUERY])
    stored = load_file(folder / other)
    save_file(stored | {QUERY: load_file(folder / index[QUERY])[QUERY] + 1}, folder / other)


def without_its_index(folder: Path) -> None:
    shards()(folder)
    (folder / INDEX).unlink()


def weights_a_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def halved(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def overlap(entries: dict[str, Any]) -> None:
    entries[NORM]["data_offsets"] = [0, 128]


def set_norm(value: float) -> Damage:
    return tensors(lambda stored: stored[NORM].view(-1)[7].fill_(value))


# name: (damage, what the message says after the folder)
BROKEN: dict[str, tuple[Damage, str]] = {
    "file cut in half": (halved, rf"{WEIGHTS}: "),
    "file empty": (text(WEIGHTS, b""), rf"{WEIGHTS}: "),
    "header of a terabyte": (
        text(WEIGHTS, (2**40).to_bytes(8, "little") + b"{}"),
        rf"{WEIGHTS}: .*[Hh]eader",
    ),
    "header not JSON": (text(WEIGHTS, (9).to_bytes(8, "little") + b"not a map"), rf"{WEIGHTS}: "),
    "header a list": (text(WEIGHTS, (2).to_bytes(8, "little") + b"[]"), rf"{WEIGHTS}: "),
    "header nested ten thousand deep": (
        text(WEIGHTS, (20_000).to_bytes(8, "little") + b"[" * 20_000),
        rf"{WEIGHTS}: ",
    ),
    "offsets overlap": (header(overlap), rf"{WEIGHTS}: .*[Oo]ffset"),
    "dtype unheard of": (header(lambda h: h[NORM].update(dtype="F37")), rf"{WEIGHTS}: "),
    "no tensors": (
        tensors(lambda t: t.clear()),
        rf"{WEIGHTS}: .*missing model\.embed_tokens\.weight and \d+ more",
    ),
    "tensor missing": (tensors(lambda t: t.pop(NORM)), rf"{WEIGHTS}: .*missing {NORM}"),
    "tensor left over": (
        tensors(lambda t: t.update({"model.surplus\nline": torch.ones(1)})),
        rf"{WEIGHTS}: .*left over model\.surplus line",
    ),
    "shape": (
        tensors(lambda t: t.update({QUERY: torch.ones(32, 40)})),
        rf"{WEIGHTS}: {QUERY}: shape \[32, 40\], but config.json needs \[40, 32\]",
    ),
    "rank": (tensors(lambda t: t.update({QUERY: torch.ones(1280)})), rf"{WEIGHTS}: {QUERY}: shape \[1280\]"),
    "scalar": (tensors(lambda t: t.update({NORM: torch.tensor(1.0)})), rf"{WEIGHTS}: {NORM}: shape \[\]"),
    "integers": (
        tensors(lambda t: t.update({QUERY: t[QUERY].to(torch.int8)})),
        rf"{WEIGHTS}: {QUERY}: stored as int8",
    ),
    "eight-bit floats": (
        tensors(lambda t: t.update({QUERY: t[QUERY].to(torch.float8_e4m3fn)})),
        rf"{WEIGHTS}: {QUERY}: stored as float8_e4m3fn",
    ),
    "NaN in a norm": (set_norm(float("nan")), rf"{WEIGHTS}: {NORM}: holds NaN or infinity"),
    "infinity in a norm": (set_norm(float("-inf")), rf"{WEIGHTS}: {NORM}: holds NaN or infinity"),
    "pickled": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        r"only pickled weights.*save_pretrained\(\), which makes",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), rf"{WEIGHTS} is missing"),
    "weights are a folder": (weights_a_folder, rf"{WEIGHTS}"),
    "shard missing": (shards(lambda f, i: (f / SHARDS[1]).unlink()), rf"{SHARDS[1]} is missing"),
    "shards without index": (without_its_index, rf"{INDEX} is missing"),
    "index names another kind of file": (
        shards(lambda f, i: i.update({"x": "x" * 9})),
        rf"{INDEX}: the shard of x",
    ),
    "index climbs out": (
        shards(lambda f, i: i.update({QUERY: "../llama/" + SHARDS[0]})),
        rf"{INDEX}: the shard of {QUERY} is not a plain file name",
    ),
    "index names a number": (shards(lambda f, i: i.update({QUERY: 5})), rf"{INDEX}: the shard of {QUERY}"),  # type: ignore[dict-item]
    "index empty": (shards(lambda f, i: i.clear()), rf"{INDEX}: weight_map"),
    "index names a tensor twice": (twice_in_index, rf"{INDEX}: {QUERY} is there twice"),
    "index names the wrong shard": (
        shards(lambda f, i: i.update({QUERY: next(s for s in SHARDS if s != i[QUERY])})),
        rf"{QUERY} is not in it, though {INDEX} says so",
    ),
    "tensor in two shards": (shards(stored_twice), rf"of-00002.safetensors: {QUERY}: differs"),
    "config missing": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "config not JSON": (text("config.json", "{"), r"config\.json: "),
    "config not UTF-8": (text("config.json", b'{"a": "\xff"}'), r"config\.json: "),
    "config a list": (text("config.json", "[]"), r"config\.json: not a JSON object"),
    "config nested deep": (text("config.json", "[" * 100_000), r"config\.json: "),
    "family unknown": (config(model_type="mamba"), r"config\.json: unknown model_type 'mamba'; known: bart"),
    "family not a name": (config(model_type=["llama"]), r"config\.json: unknown model_type"),
    "architecture unknown": (config(architectures=["LlamaForDreams"]), r"config\.json: unknown architecture"),
    "architecture a number": (config(architectures=[7]), r"config\.json: unknown architecture 7"),
    "size missing": (config(hidden_size=None), r"config\.json: 'hidden_size' is missing"),
    "size negative": (config(hidden_size=-32), r"config\.json: hidden_size must be .* not -32"),
    "size zero": (config(num_attention_heads=0), r"config\.json: num_attention_heads must be .* not 0"),
    "size a text": (config(vocab_size="96"), r"config\.json: vocab_size must be .* not '96'"),
    "size a fraction": (config(intermediate_size=48.5), r"config\.json: intermediate_size .* not 48\.5"),
    "size a switch": (config(num_hidden_layers=True), r"config\.json: num_hidden_layers .* not True"),
    "size absurd": (config(vocab_size=10**15), r"config\.json: vocab_size must be from 1 to 16777216"),
    "layers absurd": (config(num_hidden_layers=10**9), r"config\.json: num_decoder_layers .* 1 to 1000"),
    "digits absurd": (text("config.json", '{"vocab_size": ' + "9" * 5000 + "}"), r"config\.json: "),
    "length negative": (config(max_position_embeddings=-1), r"config\.json: max_position_embeddings"),
    "head size odd": (config(head_dim=11), r"config\.json: rotary positions need an even head size"),
    "switch a text": (config(mlp_bias="false"), r"config\.json: mlp_bias must be true or false, not 'false'"),
    "epsilon not a number": (config(rms_norm_eps=float("nan")), r"config\.json: norm_eps must be a finite"),
    "end token a text": (
        config(eos_token_id="</s>"),
        r"config\.json: each of eos_token_ids must be a whole number",
    ),
    "activation unknown": (config(hidden_act="sine"), r"config\.json: unknown activation 'sine'"),
    "end token of generation a text": (
        text("generation_config.json", '{"eos_token_id": ["</s>"]}'),
        r"generation_config\.json: eos_token_id must be a token id",
    ),
    "generation config not JSON": (text("generation_config.json", "no"), r"generation_config\.json: "),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_that_names_the_fault(fault: str, folder: Path) -> None:
    damage, message = BROKEN[fault]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_model(folder)
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(folder))


@pytest.mark.parametrize(
    "fault", ["file empty", "header a list", "shard missing", "NaN in a norm", "no weights"]
)
def test_the_worker_says_the_same_when_it_builds_its_engine(fault: str, folder: Path) -> None:
    """It looks at the stored dtype before it loads."""
    damage, _ = BROKEN[fault]
    damage(folder)
    with pytest.raises(CheckpointError) as raised:
        build_engine(WorkerConfig(models=[ModelSpec("broken", str(folder))], kv_cache_memory=100_000))
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


def test_an_index_that_is_not_json_is_refused(folder: Path) -> None:
    shards()(folder)
    (folder / INDEX).write_text("{")
    for read in (load_model, stored_dtype):
        with pytest.raises(CheckpointError, match=rf"{INDEX}: "):
            read(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (text("tokenizer.json", "{"), r"tokenizer\.json: "),
        (text("tokenizer.json", '{"model": {"type": "Unheard"}}'), r"tokenizer\.json: "),
        (text("tokenizer.json", b"\xff\xfe"), r"tokenizer\.json: "),
        (text("tokenizer_config.json", "[]"), r"tokenizer_config\.json: not a JSON object"),
    ],
    ids=["missing", "not JSON", "another model", "not UTF-8", "settings a list"],
)
def test_a_broken_tokenizer_is_refused(damage: Damage, message: str, folder: Path) -> None:
    damage(folder)
    for read in (Tokenizer.from_folder, lambda folder: read_served("broken", folder)):
        with pytest.raises(CheckpointError, match=message) as raised:
            read(folder)
        assert str(raised.value).startswith(str(folder))
        assert "\n" not in str(raised.value)


def test_what_is_whole_in_two_shards_is_loaded(folder: Path) -> None:
    expected = load_model(folder).state_dict()
    shards()(folder)
    again = load_model(folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in expected.items())
