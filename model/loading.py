"""Weights from and to Hugging Face folders: safetensors, strict in both directions, never pickle."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import CheckpointError, TransformerConfig
from model.families import FAMILIES, read_config, to_hf_config
from model.families.family import Family
from model.heads import MaskedLMHead
from model.layers.linear import Linear
from model.layers.quantized import Quantization
from model.stored import INDEX, WEIGHTS, read_header, weight_files
from model.transformer import Transformer

WORDS, OUTPUT = "embeddings.words.weight", "lm_head.weight"
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def load_model(
    folder: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    quantization: Quantization | None = None,
) -> Transformer:
    """The Transformer that `folder` holds, in `dtype` (None: as stored), in eval mode.

    The modules are built on the meta device and filled tensor by tensor from the memory-mapped
    files. On a CPU a weight kept as it is stored stays a view of its file, which takes page cache
    and no anonymous memory; one that is cast, transposed or cut is copied, before the next is
    looked at. So the anonymous peak is the copied part of the model, and one tensor while it is cast.
    What a `quantization` is for (see `Transformer.quantize`) stays a view until it is quantized, and
    so does the input table.

    Raises CheckpointError for a missing or left-over weight, a wrong shape, dtype or number, or an
    unreadable file; nothing is kept of the model then.
    """
    config = read_config(folder)
    family = FAMILIES[config.family]
    model = unfilled_model(config, folder)
    wanted = wanted_tensors(model, family)
    viewed = _quantized_names(model) if quantization else frozenset()
    left_over = []
    copies: list[tuple[str, Tensor]] = []
    for file, name, tensor in _tensors(folder, device):
        ours = wanted.get(name) or wanted.get(family.base_prefix + name)
        if ours is None and not re.fullmatch(family.copies, name):
            if not re.fullmatch(family.harmless, name):
                left_over.append(name)
            continue
        where = f"{file}: {name}"
        check_weight(tensor, where)
        for parameter, piece in _pieces(model, family, name, ours or [WORDS], tensor, where):
            target = piece.dtype if dtype is None or parameter in viewed else dtype
            kept = piece.to(target, memory_format=torch.contiguous_format).contiguous()
            if ours is None:
                copies.append((where, kept))
            else:
                _place(model, parameter, kept, where)
    _settle_copies(model, copies)
    _fill_with_zeros(model, wanted, family)
    missing = [theirs for theirs, ours in wanted.items() if model.get_parameter(ours[0]).is_meta]
    if missing or left_over:
        parts = [f"missing {missing[0]}" + _others(missing)] if missing else []
        parts += [f"left over {left_over[0]}" + _others(left_over)] if left_over else []
        stored = WEIGHTS if (folder / WEIGHTS).is_file() else INDEX
        raise CheckpointError(f"{folder / stored}: weights do not fit config.json: {'; '.join(parts)}")
    model.to(device).eval().requires_grad_(False)  # computed tables move, weights are there
    if quantization:
        model.quantize(quantization, dtype or model.embeddings.words.weight.dtype)
        _cast_rest(model)
    return model


def save_model(model: Transformer, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes `config.json` and `model.safetensors` as `transformers` reads them; `folder` is made."""
    config = model.config
    family = FAMILIES[config.family]
    tensors: dict[str, Tensor] = {}
    for theirs, ours in _wanted(model, family).items():
        parts = [model.get_parameter(name).detach() for name in ours]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = whole.t() if re.fullmatch(family.transposed, theirs) else whole
        tensors[theirs] = whole.to(
            "cpu", dtype or whole.dtype, copy=True, memory_format=torch.contiguous_format
        )
    if config.head == "none":
        tensors = {name.removeprefix(family.base_prefix): value for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    stored = next(iter(tensors.values())).dtype
    raw = to_hf_config(config) | {"dtype": str(stored).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def check_weight(tensor: Tensor, where: str) -> None:
    """Raises CheckpointError for what cannot be computed with; `where` names file and tensor."""
    if tensor.dtype not in FLOATS.values():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where}: stored as {kind}, but weights are floating-point numbers")
    # The extremes of a tensor with a NaN are NaN. One pass and no copy, unlike isfinite().
    if tensor.numel() and not all(bool(end.isfinite()) for end in tensor.aminmax()):
        raise CheckpointError(f"{where}: holds NaN or infinity")


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of the weights as stored; float32 where several are mixed."""
    kinds = {tensor.dtype for file in weight_files(folder) for tensor in read_header(file).values()}
    return FLOATS.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def unfilled_model(config: TransformerConfig, folder: Path) -> Transformer:
    """All on the meta device. Raises CheckpointError that names the config of `folder`."""
    try:
        with torch.device("meta"):
            return Transformer(config)
    except CheckpointError as fault:
        raise CheckpointError(f"{folder / 'config.json'}: {fault}") from None


def wanted_tensors(model: Transformer, family: Family) -> dict[str, list[str]]:
    """By published name, the parameters that such a tensor gives: what a folder may store, a tied head too."""
    return _wanted(model, family) | _tied_head(model.config, family)


def _wanted(model: Transformer, family: Family) -> dict[str, list[str]]:
    """By published name, the parameters that such a tensor holds; adapters are not the checkpoint's."""
    wanted: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        if ".adapters." not in name:
            wanted.setdefault(family.published_name(name, model.config), []).append(name)
    return wanted


def _tied_head(config: TransformerConfig, family: Family) -> dict[str, list[str]]:
    """A tied head is one with the table whether a checkpoint stores either or both.

    Not where the family's `copies` have it: those configs say that every head is tied.
    """
    published = f"{family.weights.get('lm_head')}.weight"
    if not config.tie_embeddings or "lm_head" not in family.weights or re.fullmatch(family.copies, published):
        return {}
    return {published: [WORDS]}


def _tensors(folder: Path, device: torch.device | str) -> Iterator[tuple[Path, str, Tensor]]:
    """Every stored tensor with its file, one at a time, memory-mapped."""
    for file, expected in weight_files(folder).items():
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                names = list(opened.keys())
                absent = sorted(expected.difference(names))
                if absent:
                    raise CheckpointError(f"{file}: {absent[0]} is not in it, though {INDEX} says so")
                for name in names:
                    yield file, name, opened.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as fault:
            raise CheckpointError(f"{file}: {fault}") from None


def _pieces(
    model: Transformer, family: Family, name: str, ours: Sequence[str], tensor: Tensor, where: str
) -> Iterator[tuple[str, Tensor]]:
    """Our parameters in a published tensor: itself as a rule, cut and turned where the family says so."""
    shapes = [model.get_parameter(parameter).shape for parameter in ours]
    expected = [sum(shape[0] for shape in shapes), *shapes[0][1:]]
    is_transposed = re.fullmatch(family.transposed, name)
    if is_transposed:
        expected.reverse()
    if list(tensor.shape) != expected:
        raise CheckpointError(f"{where}: shape {list(tensor.shape)}, but config.json needs {expected}")
    rows = tensor.t() if is_transposed else tensor
    return zip(ours, torch.split(rows, [shape[0] for shape in shapes]), strict=True)


def _place(model: nn.Module, name: str, value: Tensor, where: str) -> None:
    """Puts a real tensor where the meta one was; a second tensor for it must be its equal."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    present = getattr(module, leaf)
    if present.is_meta:
        setattr(module, leaf, nn.Parameter(value, requires_grad=False))
    elif not torch.equal(present, value.to(present.dtype)):
        raise CheckpointError(f"{where}: differs from the weight that config.json ties it to, or its twin")


def _settle_copies(model: Transformer, copies: Sequence[tuple[str, Tensor]]) -> None:
    """What tensors that should equal the word table are: the table, where it was stored under no name of
    its own, nothing new, or an output table that the config wrongly calls tied."""
    for where, copy in sorted(copies, key=lambda entry: entry[0].endswith(OUTPUT)):
        words = model.embeddings.words.weight
        if where.endswith(OUTPUT) and not words.is_meta and not torch.equal(words, copy.to(words.dtype)):
            with torch.device("meta"):
                model.lm_head = Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
            model.config = replace(model.config, tie_embeddings=False)
            _place(model, OUTPUT, copy, where)
        else:
            _place(model, WORDS, copy, where)


def _quantized_names(model: Transformer) -> frozenset[str]:
    """The weights that `Transformer.quantize` may read in any dtype."""
    names = {WORDS, OUTPUT}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            names.add(f"{name}.weight")
        elif isinstance(module, MaskedLMHead):
            names.add(f"{name}.projection")
    return frozenset(names)


def _cast_rest(model: Transformer) -> None:
    """What is not quantized, in the dtype of the hidden states; the input table is read as it is."""
    for name, parameter in model.named_parameters():
        if name != WORDS and not parameter.is_meta:
            parameter.data = parameter.data.to(model.dtype)


def _fill_with_zeros(model: Transformer, wanted: Mapping[str, Sequence[str]], family: Family) -> None:
    """What its family publishes only where it is not nought."""
    like = model.embeddings.words.weight
    for theirs, ours in wanted.items():
        for name in ours if re.fullmatch(family.zero_if_missing, theirs) else ():
            empty = model.get_parameter(name)
            if empty.is_meta and not like.is_meta:
                _place(model, name, torch.zeros(empty.shape, dtype=like.dtype, device=like.device), theirs)


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
