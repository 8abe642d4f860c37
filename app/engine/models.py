"""Whole models that come and go: all that the engine keeps by model, put in and taken out in one place.

A model fits the arena as it was cut at the start: a page holds as many of its positions as its bytes let.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from app.engine.admission import Served
from app.engine.compiler import Compiler
from app.engine.drafting import Drafting
from app.engine.graphs import GraphPlan
from app.engine.kv_cache import Arena, CacheShape
from app.engine.protocol import ModelInfo, ModelSpec, served_name
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from model.layers.quantized import Quantization
from model.pooling import Pooling
from model.transformer import Transformer, weight_bytes


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint that was read, what it keeps for a position, and how long that took."""

    model: Transformer
    folder: Path
    pooling: Pooling
    quantization: Quantization | None
    shape: CacheShape
    seconds: float


class Measuring(Protocol):
    """Whatever keeps what it has measured by model."""

    def forget(self, model: str) -> None: ...


@dataclass(frozen=True)
class Keepers:
    """Who keeps something by model beside its runner."""

    scheduler: Scheduler
    compiler: Compiler
    drafting: Drafting
    measuring: tuple[Measuring, ...]


class Models:
    """`served` and `infos` hold adapters too, by their names; all of it belongs to the engine's thread."""

    def __init__(
        self,
        arena: Arena,
        keepers: Keepers,
        max_model_len: int | None,
        is_deterministic: bool,
        graphs: GraphPlan | None = None,
    ) -> None:
        self.runners: dict[str, Runner] = {}
        self.served: MutableMapping[str, Served] = {}
        self.infos: MutableMapping[str, ModelInfo] = {}
        self._arena, self._keepers = arena, keepers
        self._max_model_len, self._is_deterministic = max_model_len, is_deterministic
        self._num_threads, self._graphs = torch.get_num_threads(), graphs

    def add(self, spec: ModelSpec, loaded: LoadedModel) -> ModelInfo:
        """Requests for it may come from now on. Raises CheckpointError where a page does not hold a position of it."""
        model, shape, name = loaded.model, loaded.shape, spec.name
        size = self._arena.block_size(shape)
        cache = self._arena.view(shape) if shape.num_layers else None
        runner = Runner(model, cache, size, loaded.pooling, self._is_deterministic, self._num_threads)
        own = model.config.max_positions
        limit = min(own, self._max_model_len) if self._max_model_len else own
        if self._graphs is not None:
            runner.record(limit, self._graphs)
        info = ModelInfo(
            name=name,
            kind=model.config.kind,
            max_model_len=limit,
            vocab_size=model.config.vocab_size,
            parameters=model.num_parameters,
            bytes=weight_bytes(model),
            load_seconds=loaded.seconds,
            dtype=str(model.dtype).removeprefix("torch."),
            quantization=loaded.quantization or "none",
            device=str(runner.device),
            kv_cache_dtype=str(shape.dtype).removeprefix("torch.") if shape.num_layers else None,
            num_blocks=self._arena.num_pages if shape.num_layers else 0,
            block_size=size if shape.num_layers else 0,
        )
        self.runners[name], self.infos[name] = runner, info
        self.served[name] = Served(name, None, model.config, limit)
        self._keepers.scheduler.add_model(name, size, spec.weight)
        self._keepers.compiler.add_model(name, loaded.folder, model.config.vocab_size)
        self._keepers.drafting.add_model(name)
        return info

    def hide(self, name: str) -> Served:
        """Takes no more requests for a model or an adapter."""
        del self.infos[name]
        return self.served.pop(name)

    def remove(self, name: str) -> None:
        """A hidden model has no sequence left, nor an adapter: everything of it is freed."""
        del self.runners[name]
        keepers = self._keepers
        keepers.scheduler.remove_model(name)
        keepers.compiler.remove_model(name)
        for keeper in (keepers.drafting, *keepers.measuring):
            keeper.forget(name)

    def adapters_on(self, name: str) -> list[str]:
        """The served names of those that are served through a model."""
        return [served_name(key) for key, one in self.served.items() if one.adapter and one.model == name]
