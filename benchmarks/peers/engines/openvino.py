"""OpenVINO on an exported encoder: `python -m benchmarks.peers.engines.openvino FILE.onnx bf16|f32 mean|logits`."""

import sys
from typing import Any

import numpy as np
import openvino

from benchmarks.peers.engines.lines import THREADS, answer, by_length, padded


def main(path: str, precision: str, output: str) -> None:
    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()

    def encode(command: dict[str, Any]) -> None:
        for batch in by_length(command["encode"]):
            ids, mask = (np.array(rows, np.int64) for rows in padded(batch))
            out = request.infer({"input_ids": ids, "attention_mask": mask})[0]
            if output == "mean":
                weights = mask[..., None].astype(np.float32)
                (out * weights).sum(1) / weights.sum(1)

    answer({"encode": encode})


if __name__ == "__main__":
    main(*sys.argv[1:])
