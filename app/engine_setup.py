"""The engine's client as the settings want it, and where its reports go: into the metrics."""

from collections.abc import Callable, Sequence
from functools import partial

from app.config import Settings
from app.engine.client import WORKER_COMMAND, EngineClient, Patience
from app.engine.protocol import AdapterSpec, ModelSpec, Report, WorkerConfig, served_name
from app.metrics import Metrics

MakeEngine = Callable[[Settings, Metrics], EngineClient]


def build_engine(
    settings: Settings, metrics: Metrics, command: Sequence[str] = WORKER_COMMAND
) -> EngineClient:
    """The client of an engine process that is not started yet; what it reports goes into the metrics."""
    config = WorkerConfig(
        models=[
            ModelSpec(
                model.name, str(model.folder), model.weight, model.quantization or settings.quantization
            )
            for model in settings.models
        ],
        adapters=[AdapterSpec(one.name, one.base, str(one.folder)) for one in settings.adapters],
        device=settings.device,
        dtype=settings.dtype,
        kv_cache_dtype=settings.kv_cache_dtype,
        kv_cache_memory=settings.kv_cache_memory,
        kv_cache_page=settings.kv_cache_page,
        token_budget=settings.token_budget,
        max_num_seqs=settings.max_sequences,
        max_model_len=settings.max_model_len,
        prefix_cache=settings.prefix_cache,
        target_step_ms=settings.target_step_ms,
        speculation=settings.speculation,
        deterministic=settings.deterministic,
        cuda_graphs=settings.cuda_graphs,
        threads=settings.threads,
        niceness=settings.engine_niceness,
        log_format=settings.log_format,
    )
    return EngineClient(
        config,
        max_queue_requests=settings.max_queue_requests,
        max_queue_tokens=settings.max_queue_tokens,
        max_queue_wait=settings.max_queue_wait,
        on_report=partial(record, metrics),
        on_restart=metrics.engine_restarts.inc,
        command=command,
        patience=Patience(settings.hang_timeout, settings.start_timeout, settings.recovery_timeout),
    )


def record(metrics: Metrics, report: Report) -> None:
    """One engine step into the metrics, in which old weights of a model count with its new ones."""
    model = served_name(report.model)
    metrics.step_duration.labels(model, report.phase).observe(report.duration_s)
    metrics.batch_size.labels(model).observe(report.batch_size)
    metrics.batch_tokens.labels(model).observe(report.batch_tokens)
    if report.padding_tokens:
        metrics.tokens.labels(model, "padding").inc(report.padding_tokens)
    if report.drafted_tokens:
        rejected = report.drafted_tokens - report.accepted_tokens
        metrics.speculative_tokens.labels(model, "accepted").inc(report.accepted_tokens)
        metrics.speculative_tokens.labels(model, "rejected").inc(rejected)
    if report.preemptions:
        metrics.preemptions.labels(model).inc(report.preemptions)
    for gauge, values in (
        (metrics.requests_running, report.running),
        (metrics.requests_waiting, report.waiting),
        (metrics.kv_usage, report.kv_usage),
    ):
        together: dict[str, float] = {}
        for address, value in values.items():
            name = served_name(address)
            together[name] = together.get(name, 0.0) + value
        for name, value in together.items():
            gauge.labels(name).set(value)
