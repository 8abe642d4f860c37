"""What the peers want made of the checkpoints: converted, exported and quantized files, each made once.

Run in the peers' environment: `python -m benchmarks.peers.prepare ctranslate2|onnx|gguf FOLDER OUT`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def ctranslate2(folder: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(out), force=True)


def onnx(folder: Path, out: Path) -> None:
    """`model.onnx` with its attention fused, and `int8.onnx`, dynamically quantized."""
    import torch
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    out.mkdir(parents=True, exist_ok=True)
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    has_head = architecture.endswith("ForSequenceClassification")
    kind = transformers.AutoModelForSequenceClassification if has_head else transformers.AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            answer = self.inner(input_ids=input_ids, attention_mask=attention_mask)
            return answer.logits if has_head else answer.last_hidden_state

    ids = torch.randint(200, 1000, (2, 16))
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        Plain(),
        (ids, torch.ones_like(ids)),
        str(out / "plain.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["out"],
        opset_version=17,
        dynamo=False,
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "out": {0: "texts"} if has_head else axes},
    )
    fused = optimizer.optimize_model(
        str(out / "plain.onnx"), model_type="bert", num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size, opt_level=1,
    )  # fmt: skip
    fused.save_model_to_file(str(out / "fused.onnx"))
    import onnx as format_

    quantize_dynamic(
        str(out / "fused.onnx"), str(out / "int8.onnx"), weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": format_.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )  # fmt: skip


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf(folder: Path, out: Path) -> None:
    """Float32, to be quantized by `llama-quantize`; its tokenizer means nothing, since ids are what is sent."""
    import gguf as format_
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 1e6)
    writer = format_.GGUFWriter(str(out), "qwen2")
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(rope))
    writer.add_file_type(format_.LlamaFileType.ALL_F32)
    size = config["vocab_size"]
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    # the format wants a printable letter for each of the 256 bytes
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(one) for one in printable] + [chr(256 + one) for one in range(256 - len(printable))]
    writer.add_token_list([f"w{number}" for number in range(size - 256)] + letters)
    writer.add_token_types([format_.TokenType.NORMAL] * size)
    writer.add_token_merges(["w 1"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name == "lm_head.weight":
            continue  # tied
        if name == "model.embed_tokens.weight":
            wanted = "token_embd.weight"
        elif name == "model.norm.weight":
            wanted = "output_norm.weight"
        else:
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            module, _, kind = rest.rpartition(".")
            wanted = f"blk.{layer}.{GGUF_NAMES[module]}.{kind}"
        writer.add_tensor(wanted, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"ctranslate2": ctranslate2, "onnx": onnx, "gguf": gguf}[sys.argv[1]](
        Path(sys.argv[2]), Path(sys.argv[3])
    )
