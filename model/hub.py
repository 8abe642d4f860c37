"""Checkpoints from the Hugging Face Hub: which files of a repository are wanted, and what went wrong in one line.

`huggingface_hub` does the talking and is imported when first needed. Where its cache lies, whose token is sent, which
server is asked and whether the network may be used at all (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) is read
from the environment by that library, not here. Torch-free.
"""

import errno
import glob
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import CheckpointError
from model.families import read_json
from model.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS

if TYPE_CHECKING:
    from tqdm.auto import tqdm

FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        ADAPTER_CONFIG,
        # how a sentence encoder pools
        "modules.json",
        "1_Pooling/config.json",
        # tokenizers and chat templates; all of them, for what one lacks another may say
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "spm.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "target.spm",
    }
)
"""What is taken beside the weights. Code, pickled weights and other frameworks' files never are."""
LIST_SECONDS = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(
    name: str,
    to: Path | None = None,
    *,
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder with what `name`, `org/repo[@revision]`, holds: in the library's cache, or `to`.

    Whole files that are there are not fetched again, and a connection that breaks off is taken up where it broke.
    Without a network the cache answers alone. `say` is told what will be fetched; bars go to a stderr that is a
    terminal. Raises CheckpointError, and ModuleNotFoundError where the library is not installed.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, XetDownloadError

    repo, _, revision = name.partition("@")
    try:
        if _COMMIT.fullmatch(revision) and to is None and (pinned := _find_cached(repo, revision)):
            return pinned  # a commit does not change
        try:
            commit, sizes = _list_files(repo, revision or None, endpoint)
        except (OfflineModeIsEnabled, httpx2.TransportError):
            cached = None if to else _find_cached(repo, revision or None)
            if cached is None:
                raise
            say(f"{name}: the hub cannot be asked; taking what was downloaded before")
            return cached
        index = None
        if WEIGHTS not in sizes and INDEX in sizes:
            index = _fetch(repo, INDEX, commit, to, endpoint)
        chosen = choose_files(sizes, index)
        absent = {file: sizes[file] for file in chosen if not _is_there(repo, commit, file, sizes[file], to)}
        if absent:
            _check_space(absent, to)
            say(f"{name}: {len(absent)} files, {sum(absent.values()) / 1e6:,.1f} MB")
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=[glob.escape(file) for file in chosen],
            local_dir=to,
            endpoint=endpoint,
            library_name="quartet",
            tqdm_class=_bar(),
        )
    except CheckpointError as fault:
        raise CheckpointError(f"{name}: {fault}") from None
    except (httpx2.HTTPError, HFValidationError, XetDownloadError, OSError) as fault:
        raise CheckpointError(f"{name}: {_explain(fault, repo, revision)}") from None
    return Path(folder)


def _bar() -> "type[tqdm[Any]]":
    """The library's bar, but silent where stderr is no terminal; it does that for two of its three bars."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("disable", None)
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    return Bar


def choose_files(names: Collection[str], index: Path | None = None) -> list[str]:
    """What to take of a repository's files, its weights first; the `index` names the shards.

    Raises CheckpointError for a repository without safetensors.
    """
    weights = [file for file in (WEIGHTS, ADAPTER_WEIGHTS) if file in names]
    if WEIGHTS not in names and INDEX in names:
        shards = read_json(index).get("weight_map") if index else None
        named = set(shards.values()) if isinstance(shards, Mapping) else set()
        # A name that is not a plain one, or not of a shard, is left to the loader to refuse.
        plain = {str(name) for name in named if str(name).endswith(".safetensors") and "/" not in str(name)}
        weights = [INDEX, *sorted(plain.intersection(names)), *weights]
    if not weights:
        others = [
            file for file in names if file.endswith((".bin", ".pt", ".h5", ".msgpack", ".gguf", ".onnx"))
        ]
        instead = f"; {min(others)} is there, but no format that is read" if others else ""
        raise CheckpointError(f"no {WEIGHTS} in the repository{instead}")
    return [*weights, *sorted(FILES.intersection(names))]


def _list_files(repo: str, revision: str | None, endpoint: str | None) -> tuple[str, dict[str, int]]:
    """The commit that the revision is now, and the size of each file in it."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, library_name="quartet")
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=LIST_SECONDS)
    return info.sha or "", {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _fetch(repo: str, file: str, commit: str, to: Path | None, endpoint: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        repo, file, revision=commit, local_dir=to, endpoint=endpoint, library_name="quartet"
    )
    return Path(path)


def _find_cached(repo: str, revision: str | None) -> Path | None:
    """The cached folder of a revision as it was last seen, if nothing of it is missing."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    except CachedRepoTreeNotFoundError:
        return None
    paths = [
        _cached_path(repo, file, revision)
        for file in choose_files(names, _cached_path(repo, INDEX, revision))
    ]
    whole = [path for path in paths if path is not None]
    return whole[0].parent if len(whole) == len(paths) else None


def _cached_path(repo: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _is_there(repo: str, commit: str, file: str, size: int, to: Path | None) -> bool:
    if to is None:
        return _cached_path(repo, file, commit) is not None
    return (to / file).is_file() and (to / file).stat().st_size == size


def _check_space(sizes: Mapping[str, int], to: Path | None) -> None:
    """Raises CheckpointError before anything is fetched that the disk could not hold."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(to or HF_HUB_CACHE).absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    need, free = sum(sizes.values()), shutil.disk_usage(place).free
    if need > free:
        raise CheckpointError(f"needs {need / 1e6:,.1f} MB, and {folder} has {free / 1e6:,.1f} MB left")


def _explain(fault: Exception, repo: str, revision: str) -> str:
    """A failure in one line that says what to do."""
    import httpx2
    from huggingface_hub import errors

    cause = fault.__cause__ if isinstance(fault, errors.LocalEntryNotFoundError) else None
    first = next(iter(str(cause or fault).strip().splitlines()), type(fault).__name__)
    if isinstance(fault, errors.GatedRepoError):
        return f"access has to be asked for on the page of {repo}; then set HF_TOKEN to that account's token"
    if isinstance(fault, errors.RepositoryNotFoundError):
        return "no folder here, and no such repository on the hub, or a private one: that needs HF_TOKEN"
    if isinstance(fault, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision!r}"
    if isinstance(fault, errors.HfHubHTTPError):
        status = fault.response.status_code
        if status in (401, 403):
            return f"the hub answered {status}: it does not take this token; see HF_TOKEN"
        return f"the hub answered {status}; try again later"
    if isinstance(fault, errors.OfflineModeIsEnabled):
        return "not downloaded yet, and HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(fault, httpx2.HTTPError | errors.LocalEntryNotFoundError):
        return f"the hub cannot be reached ({first}); whole files are kept, so try again"
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {fault.filename or first}"
    return first
