"""What a checkpoint says about generation: where it is read from, and that a wrong value is told by file and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import CheckpointError
from model.families import read_config, read_generation_config
from model.generation_config import GenerationConfig
from model.loading import save_model
from tests.tiny import BERT, T5, random_model

CNN = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "decoder_start_token_id": 5,
    "early_stopping": True,
    "eos_token_id": [2, 7],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "pad_token_id": 1,
    "bad_words_ids": [[95], [3, 4], [2]],
    "do_sample": False,
    "temperature": None,
}
WANTED = GenerationConfig(
    decoder_start_token_id=5,
    early_stopping=True,
    eos_token_ids=(2, 7),
    forced_bos_token_id=0,
    forced_eos_token_ids=(2,),
    length_penalty=2.0,
    max_length=142,
    min_length=56,
    no_repeat_ngram_size=3,
    num_beams=4,
    bad_words_ids=((95,), (3, 4), (2,)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(random_model(T5), tmp_path)
    return tmp_path


def write(folder: Path, name: str, changes: dict[str, Any]) -> None:
    file = folder / name
    old = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(old | changes))


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_it_is_read_from_its_own_file_or_from_the_config(folder: Path, name: str) -> None:
    write(folder, name, CNN)
    generation = read_generation_config(folder, 96)
    assert generation == WANTED
    assert generation.suppressed_token_ids == (95,), "an end token is no bad word"
    assert generation.longer_bad_words == ((3, 4),)
    config = read_config(folder)
    assert (config.eos_token_ids, config.decoder_start_token_id) == ((2, 7), 5)


def test_its_own_file_goes_before_the_config_and_an_empty_one_says_nothing(folder: Path) -> None:
    write(folder, "config.json", {"num_beams": 8})
    write(folder, "generation_config.json", {})
    assert read_generation_config(folder, 96) == GenerationConfig()
    config = read_config(folder)
    assert (config.eos_token_ids, config.decoder_start_token_id) == ((1,), 0), "as config.json says"


def test_an_encoder_generates_nothing_whatever_is_written_there(tmp_path: Path) -> None:
    save_model(random_model(BERT), tmp_path)
    write(tmp_path, "config.json", {"num_beams": "many"})
    assert read_config(tmp_path).family == "bert"


WRONG: dict[str, tuple[Any, ...]] = {
    "num_beams": (0, "4", 1.5, True),
    "max_length": (0, -1, "9"),
    "max_new_tokens": (0,),
    "min_length": (-1,),
    "min_new_tokens": (-1,),
    "no_repeat_ngram_size": (-1, 2.0, 65),
    "encoder_no_repeat_ngram_size": (-1,),
    "encoder_repetition_penalty": (0, "1"),
    "num_beam_groups": (0,),
    "diversity_penalty": ("1",),
    "length_penalty": ("1", [], True),
    "early_stopping": ("always", 2),
    "do_sample": ("yes",),
    "temperature": (-0.1, 2.1, "1", float("nan")),
    "top_k": (-2, 0.5),
    "top_p": (0, 1.1),
    "min_p": (2,),
    "repetition_penalty": (0,),
    "eos_token_id": ("2", [2, None], -1, 1.0),
    "forced_eos_token_id": ("2", [[2]], 96, [2, 96]),
    "decoder_start_token_id": (96, -1, [5]),
    "forced_bos_token_id": (96, "de"),
    "bad_words_ids": (5, [5], [[]], [[96]], [["a"]], [[1, 2]] * 1025),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_told_by_file_and_key(folder: Path, key: str, value: Any) -> None:
    write(folder, "generation_config.json", {key: value})
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} must be ") as refused:
        read_config(folder)
    assert "\n" not in str(refused.value)
