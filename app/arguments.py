"""What the command line takes: commands and flags, and what `--help` says of them. Decides nothing."""

import argparse

from app.bench.arguments import add_arguments


def make_parser(version: str) -> argparse.ArgumentParser:
    """Flags come out under the names of the settings, None where they are left out."""
    parser = argparse.ArgumentParser(
        prog="quartet", description="One engine that serves every Transformer task.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"quartet {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve_ = commands.add_parser(
        "serve",
        help="serve models over HTTP",
        description="Serves the packaged models, or those named here. Each flag has an environment name "
        "(--drain-timeout: QUARTET_DRAIN_TIMEOUT) and a line under [server] in the file.",
        allow_abbrev=False,
    )
    add = serve_.add_argument
    add("--config", metavar="FILE", help="models.toml")
    add("--model", action="append", metavar="NAME=PATH", help="a folder, or org/repo[@revision]; repeatable")
    add(
        "--adapter",
        action="append",
        metavar="NAME=BASE:PATH",
        help="a PEFT adapter, PATH as above, on a served model; repeatable",
    )
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=int, help="port, 0 for any free one (8000)")
    add("--device", help="auto, cpu, cuda or cuda:N (auto)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="of the weights (auto)")
    add(
        "--quantization",
        choices=["none", "int8", "int4", "fp8"],
        help="of the weights of products; int4 is for a CPU (none)",
    )
    add(
        "--kv-cache-dtype",
        choices=["auto", "float32", "bfloat16"],
        help="of keys and values (auto: bfloat16 for quantized weights on a CPU, else as hidden states)",
    )
    add(
        "--kv-cache-memory",
        type=int,
        metavar="BYTES",
        help="for all models together (a part of what is free)",
    )
    add(
        "--kv-cache-page",
        type=int,
        metavar="BYTES",
        help="at least, so that models with wider caches can be loaded later (by those at the start)",
    )
    add("--max-model-len", type=int, metavar="TOKENS", help="an upper bound on every model's context")
    add("--token-budget", type=int, metavar="TOKENS", help="most tokens computed in one step (2048)")
    add("--max-sequences", type=int, metavar="N", help="most sequences in one step (256)")
    add(
        "--no-speculation",
        dest="speculation",
        action="store_false",
        default=None,
        help="compute one token at a time",
    )
    add(
        "--no-prefix-cache",
        dest="prefix_cache",
        action="store_false",
        default=None,
        help="compute every prompt anew",
    )
    add(
        "--target-step-ms",
        type=float,
        metavar="MS",
        help="how long a step may take while others wait, 0 for no matter (100 on a CPU, else 0)",
    )
    add(
        "--deterministic",
        action="store_true",
        default=None,
        help="the same tokens in any batch, at some cost; on a CPU",
    )
    add(
        "--no-cuda-graphs",
        dest="cuda_graphs",
        action="store_false",
        default=None,
        help="start every kernel of a decode step anew; on CUDA",
    )
    add("--threads", type=int, metavar="N", help="threads of the engine on a CPU")
    add("--engine-niceness", type=int, metavar="N", help="how far the engine stands back, 0 to 19 (5)")
    add("--max-queue-requests", type=int, metavar="N", help="sequences admitted at most (4096)")
    add("--max-queue-tokens", type=int, metavar="TOKENS", help="tokens admitted at most (2000000)")
    add(
        "--max-queue-wait",
        type=float,
        metavar="SECONDS",
        help="longest that a new request is expected to wait (30)",
    )
    add("--max-connections", type=int, metavar="N", help="open at most (8192)")
    add("--max-body-bytes", type=int, metavar="BYTES", help="largest request body (16777216)")
    add("--max-timeout", type=float, metavar="SECONDS", help="longest a request may take (600)")
    add("--drain-timeout", type=float, metavar="SECONDS", help="for work in flight at the end (30)")
    add("--cache-dir", metavar="DIR", help="for what is downloaded or compiled and kept (each library's own)")
    add("--log-format", choices=["text", "json"], help="of the log on stderr (text)")
    add(
        "--otlp-endpoint",
        metavar="URL",
        help="send OpenTelemetry traces there, such as http://localhost:4318",
    )
    _add_guard_flags(serve_)
    _add_checkpoint_commands(commands)
    _add_train_command(commands)
    _add_key_command(commands)
    _add_bench_command(commands)
    return parser


def _add_guard_flags(serve_: argparse.ArgumentParser) -> None:
    add = serve_.add_argument
    add("--api-key-file", metavar="FILE", help="who may ask for what; `quartet key new` adds a line")
    add("--rate-limit-requests", type=int, metavar="N", help="a minute for each key (no limit)")
    add("--rate-limit-tokens", type=int, metavar="TOKENS", help="a minute for each key (no limit)")
    add(
        "--allowed-hosts",
        metavar="HOST,…",
        help="what this server is called, *.DOMAIN and * too (this machine's names when it listens there alone)",
    )
    add("--cors-origins", metavar="ORIGIN,…", help="sites whose pages may ask, * for all (none)")
    add("--model-root", metavar="DIR", help="models and adapters below may be loaded by /admin (none)")
    add(
        "--log-prompts",
        action="store_true",
        default=None,
        help="show in the log what clients send",
    )


def _add_checkpoint_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    info = commands.add_parser(
        "info",
        help="what a checkpoint is, and why it could not be served",
        description="Reads a checkpoint's or an adapter's folder, no weights. Exit code 2 when it cannot be served.",
        allow_abbrev=False,
    )
    info.add_argument("path", metavar="PATH", help="the folder")
    info.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    download = commands.add_parser(
        "download",
        help="fetch a checkpoint from the Hugging Face Hub",
        description="Fetches what serving needs and prints the folder. HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count.",
        allow_abbrev=False,
    )
    download.add_argument("name", metavar="ORG/REPO[@REVISION]", help="branch, tag or commit (main)")
    download.add_argument("--to", metavar="DIR", help="instead of the cache that all of HF's tools share")


def _add_train_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Everything behind `train` is read by `model.training`: no word of it is taken for a flag here."""
    train = commands.add_parser(
        "train", help="train on a file of your own", add_help=False, prefix_chars="\0", allow_abbrev=False
    )
    train.add_argument("words", nargs="*")


def _add_key_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    key = commands.add_parser("key", help="keys for --api-key-file", allow_abbrev=False)
    actions = key.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="make a key",
        description="Prints a random key, once, and adds its line to the file of --api-key-file; servers see it.",
        allow_abbrev=False,
    )
    new.add_argument("name", metavar="NAME", help="shown in the log")
    new.add_argument(
        "--scopes", default="infer", metavar="SCOPE,…", help="of infer, metrics and admin (infer)"
    )
    new.add_argument("--file", metavar="FILE", help="add the line there; left out, it is shown")


def _add_bench_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bench = commands.add_parser(
        "bench",
        help="put load on a server and measure it",
        description="Sends requests to any server with OpenAI's routes, or Quartet's own, at one level of load after "
        "the other, and tells throughput and latencies. docs/benchmarking.md explains each number.",
        allow_abbrev=False,
    )
    add_arguments(bench)
