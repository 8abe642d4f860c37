"""Settings: who wins, what is refused, and what the shipped file says."""

import json
import tomllib
from pathlib import Path

import pytest

from app.arguments import make_parser
from app.config import (
    Settings,
    find_cache_dir,
    load_settings,
    read_api_key,
    use_cache_dir,
    use_large_pages,
    with_folders,
    zoo_models,
)
from app.engine_setup import build_engine
from app.errors import ConfigError
from app.kept_files import prepare_folder
from app.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "some"
    path.mkdir()
    return path


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_win_over_the_environment_over_the_file(tmp_path: Path, folder: Path) -> None:
    file = write(
        tmp_path / "models.toml",
        '[server]\nport = 1\nhost = "a"\nthreads = 1\n[models.one]\npath = "some"\n[defaults]\nclassify = "one"\n',
    )
    environ = {"QUARTET_PORT": "2", "QUARTET_HOST": "b", "QUARTET_CONFIG": file, "OTHER": "x"}
    settings = load_settings({"port": 3, "host": None}, environ)
    assert (settings.port, settings.host, settings.threads) == (3, "b", 1)
    assert [(model.name, model.path) for model in settings.models] == [("one", folder)]
    assert settings.default_models == {"classify": "one"}


def test_the_prefix_cache_is_on_until_a_flag_or_a_variable_turns_it_off(folder: Path) -> None:
    def flags(*more: str) -> dict[str, object]:
        given = vars(make_parser("1").parse_args(["serve", "--model", f"one={folder}", *more]))
        del given["command"]
        return given

    assert load_settings(flags(), {}).prefix_cache
    assert not load_settings(flags("--no-prefix-cache"), {}).prefix_cache
    assert not load_settings(flags(), {"QUARTET_PREFIX_CACHE": "false"}).prefix_cache
    assert load_settings(flags("--target-step-ms", "0"), {}).target_step_ms == 0.0
    assert load_settings(flags(), {}).speculation
    assert not load_settings(flags("--no-speculation"), {}).speculation
    assert load_settings(flags(), {}).cuda_graphs
    assert not load_settings(flags("--no-cuda-graphs"), {}).cuda_graphs
    assert not load_settings(flags(), {}).deterministic
    assert load_settings(flags("--deterministic"), {}).deterministic
    assert load_settings(flags(), {"QUARTET_DETERMINISTIC": "true"}).deterministic


def test_what_the_engine_must_know_reaches_it(tmp_path: Path) -> None:
    text = "[server]\nspeculation = false\nprefix_cache = false\ndeterministic = true\ncuda_graphs = false\n"
    text += 'quantization = "int8"\n[models.one]\npath = "."\nweight = 2.5\n'
    text += '[models.two]\npath = "."\nquantization = "none"\n'
    settings = load_settings({"config": write(tmp_path / "models.toml", text)}, {})
    config = build_engine(settings, Metrics("1"))._supervisor._config()
    assert [model.weight for model in config.models] == [2.5, 1.0]
    assert [model.quantization for model in config.models] == ["int8", "none"]
    assert (config.speculation, config.prefix_cache, config.deterministic) == (False, False, True)
    assert not config.cuda_graphs
    with pytest.raises(ConfigError, match="weight"):
        load_settings({"config": write(tmp_path / "bad.toml", text.replace("2.5", "0"))}, {})


def test_models_by_flag_replace_those_of_the_file(tmp_path: Path, folder: Path) -> None:
    file = write(tmp_path / "models.toml", '[models.one]\npath = "some"\n')
    flags = {"config": file, "model": [f"two={folder}"], "adapter": [f"three=two:{folder}"]}
    settings = load_settings(flags, {})
    assert [model.name for model in settings.models] == ["two"]
    assert [(one.name, one.base) for one in settings.adapters] == [("three", "two")]
    by_environment = load_settings(
        {}, {"QUARTET_MODEL": f"x={folder},y={folder}", "QUARTET_ADAPTER": f"z=x:{folder}"}
    )
    assert [model.name for model in by_environment.models] == ["x", "y"]


def test_a_repository_becomes_a_folder_and_a_folder_stays_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "here").mkdir(parents=True)
    text = (
        '[models.c]\nhub = "org/c@v1"\n[models.d]\npath = "some"\n[adapters.e]\nbase = "d"\nhub = "org/e"\n'
    )
    by_file = load_settings({"config": write(tmp_path / "models.toml", text)}, {})
    flags = {"model": ["a=org/a", "b=org/here"], "adapter": ["e=a:org/e@refs/pr/1"]}
    by_flags = load_settings(flags, {})
    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return Path("/cache", name)

    settings = [with_folders(one, fetch) for one in (by_file, by_flags)]
    assert fetched == ["org/c@v1", "org/e", "org/a", "org/e@refs/pr/1"]
    assert [model.folder for one in settings for model in one.models] == [
        Path("/cache/org/c@v1"),
        folder,
        Path("/cache/org/a"),
        Path("org/here"),
    ]
    assert [one.adapters[0].folder.parts[-1] for one in settings] == ["e", "1"]


def test_the_key_of_a_client_is_no_setting_of_a_server() -> None:
    environ = {"QUARTET_API_KEY": "secret"}
    assert load_settings({}, environ) == load_settings({}, {})
    assert read_api_key(environ) == "secret"
    assert read_api_key({"QUARTET_API_KEY": ""}) is None


@pytest.mark.parametrize(
    ("flags", "environ", "word"),
    [
        ({"model": ["a"]}, {}, "NAME=PATH"),
        ({"model": ["a=/nowhere/at/all"]}, {}, "not a folder"),
        ({"model": ["a b=."]}, {}, "name"),
        ({"model": ["a=.", "a=."]}, {}, "two models"),
        ({"model": ["a=."], "adapter": ["b=c:."]}, {}, "base"),
        ({"adapter": ["b=c:."]}, {}, "base"),
        ({"model": ["a=."], "adapter": ["b=c"]}, {}, "NAME=BASE:PATH"),
        ({"model": ["a=."], "port": 70000}, {}, "port"),
        ({"model": ["a=."]}, {"QUARTET_PORT": "many"}, "port"),
        ({"model": ["a=."]}, {"QUARTET_PROT": "1"}, "QUARTET_PROT"),
        ({"model": ["a=."], "device": "tpu"}, {}, "device"),
        ({"model": ["a=."], "quantization": "int2"}, {}, "quantization"),
        ({"config": "/nowhere.toml"}, {}, "/nowhere.toml"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    flags: dict[str, object], environ: dict[str, str], word: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(flags, environ)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["[server]\nprot = 1\n", "[nonsense]\n", "[models.a]\n", "models = 3\n", "[server\n", "[models.a]\npath = 3\n",
     '[models.a]\npath = "some"\nextra = 1\n', '[models.a]\npath = "some"\nhub = "org/a"\n', '[models.a]\nhub = "a"\n'],
)  # fmt: skip
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, folder: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings({"config": write(tmp_path / "models.toml", text)}, {})
    assert "\n" not in str(refused.value)


def test_each_flag_is_a_setting_and_each_setting_has_its_default_in_the_shipped_file() -> None:
    flags = set(vars(make_parser("1").parse_args(["serve"]))) - {"command", "config", "model", "adapter"}
    assert flags <= set(Settings.model_fields)
    shipped = tomllib.loads((ROOT / "deploy/models.toml").read_text(encoding="utf-8"))
    defaults = json.loads(Settings().model_dump_json())
    assert {name: defaults[name] for name in shipped["server"]} == shipped["server"]


def test_the_zoo_is_what_lies_there_complete(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        zoo_models(tmp_path)
    for name, files in {
        "minilm": ["model.safetensors", "config.json"],
        "qa": ["adapter_model.safetensors", "adapter_config.json"],
        "writer": ["config.json"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    found = zoo_models(tmp_path)
    assert [model["name"] for model in found["models"]] == ["minilm"]
    assert [(one["name"], one["base"]) for one in found["adapters"]] == [("qa", "minilm")]


def test_libraries_keep_their_files_in_the_one_folder_unless_told_otherwise(tmp_path: Path) -> None:
    environ = {"HF_HOME": "/elsewhere"}
    use_cache_dir(tmp_path, environ)
    assert environ == {
        "HF_HOME": "/elsewhere",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }
    assert find_cache_dir({}) is find_cache_dir({"QUARTET_CACHE_DIR": ""}) is None
    assert find_cache_dir({"QUARTET_CACHE_DIR": str(tmp_path)}) == tmp_path


def test_large_pages_are_asked_for_unless_something_else_is() -> None:
    environ: dict[str, str] = {}
    use_large_pages(environ)
    assert environ == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environ["GLIBC_TUNABLES"] = "glibc.malloc.arena_max=2"
    use_large_pages(environ)
    assert environ == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}


def test_a_folder_that_cannot_be_written_is_told_and_nothing_more(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "a" / "new" / "one") is None
    assert list((tmp_path / "a" / "new" / "one").iterdir()) == []
    (tmp_path / "file").touch()
    told = prepare_folder(tmp_path / "file")
    assert told is not None
    assert str(tmp_path / "file") in told
    assert "no kernel is compiled" in told
