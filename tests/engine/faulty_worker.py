"""The real engine process with a fault: a batch that holds the poison ends it by a signal, as a bad kernel would."""

import os
import signal
import sys
from typing import Any

from app.engine import worker
from app.engine.runner import Runner

POISON = 95


def main() -> None:
    """As `python -m app.engine.worker`."""
    run = Runner.run

    def faulty(self: Runner, batch: Any) -> Any:
        if batch.decode is not None and (batch.decode.ids == POISON).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, batch)

    Runner.run = faulty  # type: ignore[method-assign]
    sys.exit(worker.main())
