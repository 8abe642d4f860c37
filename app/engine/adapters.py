"""Adapters on their models: read for a model, put on it and taken off between two steps.

In a step, sequences of one base share the products of its weights, whichever adapters they go through.
"""

from itertools import count
from pathlib import Path

import msgspec

from app.engine.admission import Served
from app.engine.determinism import check_products
from app.engine.models import Models
from app.engine.protocol import AdapterSpec, ModelInfo, served_name
from model.adapters import AdapterWeights, read_adapter, remove_adapter


class Adapters:
    """Those on `models`. All but `read` belongs to the engine's thread.

    Weights are on a model under a name that no other adapter has had, so that an adapter may be replaced while
    sequences still go through it, and nobody finds blocks that were computed by another of its name. While the
    thread that reads looks at a model, no adapter is put on that one or taken off.
    """

    def __init__(self, models: Models, is_deterministic: bool = False) -> None:
        self._models = models
        self._is_deterministic = is_deterministic
        self._numbers = count(1)

    def read(self, spec: AdapterSpec) -> AdapterWeights:
        """For its base, which is there. Raises CheckpointError."""
        base = self._models.runners[spec.base].model
        weights = read_adapter(base, served_name(spec.name), Path(spec.path))
        if self._is_deterministic:
            check_products(spec.name, weights.packed)
        return weights

    def attach(self, spec: AdapterSpec, weights: AdapterWeights, seconds: float) -> ModelInfo:
        """Requests for it may come from now on; reading it took so many seconds."""
        place = f"{spec.name}:{next(self._numbers)}"
        weights.attach(self._models.runners[spec.base].model, place)
        limit = self._models.served[spec.base].max_model_len
        self._models.served[spec.name] = Served(spec.base, place, weights.config, limit)
        info = msgspec.structs.replace(
            self._models.infos[spec.base],
            name=spec.name,
            base=spec.base,
            parameters=sum(parameter.numel() for parameter in weights.parameters),
            bytes=sum(parameter.nbytes for parameter in weights.parameters),
            load_seconds=seconds,
        )
        self._models.infos[spec.name] = info
        return info

    def detach(self, served: Served) -> None:
        """One that no sequence goes through any more: its weights are freed."""
        assert served.adapter is not None
        remove_adapter(self._models.runners[served.model].model, served.adapter)
