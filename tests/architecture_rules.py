"""The rules of docs/architecture.md as functions from a tree of sources to a list of violations.

Imports are read from the syntax tree, so lazy and type-only ones count.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MAX_LINES = 320  # about 300
MAX_TEST_LINES = 400

# path: why it is one piece
LONGER_FILES: dict[str, str] = {}
BANNED_FILE_NAMES = {"utils", "util", "helpers", "common", "misc"}

LEAVES = ("app.errors", "app.metrics", "app.logs", "app.security", "app.caller", "app.timeline")
MODEL_FACTS = (
    "model.config",
    "model.families",
    "model.generation_config",
    "model.tokenization",
    "model.hub",
    "model.lora_settings",
    "model.pooling",
    "model.stored",
)
BORDER = (
    *("app.engine.sampling_params", "app.engine.protocol"),
    *("app.engine.questions", "app.engine.framing"),
)

# Who may import whom. The longest name that fits a module decides; what is not listed is refused.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "app.errors": (),
    "app.metrics": ("app.errors",),
    "app.logs": ("app.errors",),
    "app.security": ("app.errors",),
    "app.caller": ("app.timeline",),
    "app.timeline": ("app.engine.protocol", "app.engine.sampling_params"),
    "app.otlp": ("app.errors",),
    "app.tracing": ("app.errors", "app.timeline"),
    "app.config": ("app.models_file", "app.otlp", *LEAVES),
    "app.models_file": ("app.errors",),
    "app.kept_files": (),
    "app.version": (),
    "app.garbage": (),
    "app.arguments": ("app.bench.arguments",),
    # a client of servers: of the package it knows how errors are called
    "app.bench": ("app.bench", "app.errors"),
    "app.cli": (
        *("app.arguments", "app.commands", "app.main", "app.registry", "app.engine_setup", "app.config"),
        *("app.garbage", "app.kept_files", "app.tracing", "app.version", *LEAVES, *MODEL_FACTS),
    ),
    # what the command line does without serving: it looks at folders, and at what tasks would make of them
    "app.commands": ("app.bench", "app.commands", "app.tasks", *LEAVES, *MODEL_FACTS),
    "app.main": ("app.api", "app.registry", "app.config", "app.tracing", *LEAVES),
    "app.api": ("app.api", "app.registry", "app.sources", "app.tasks", "app.tracing", *LEAVES),
    "app.registry": (
        *("app.cards", "app.chrome_trace", "app.config", "app.in_flight", "app.loading"),
        *("app.sources", "app.tasks", "app.engine.client"),
        *(*BORDER, *LEAVES, *MODEL_FACTS),
    ),
    "app.loading": ("app.in_flight", "app.sources", "app.tasks", *BORDER, *LEAVES, *MODEL_FACTS),
    "app.sources": ("app.tasks", *BORDER, *LEAVES),
    "app.cards": ("app.tasks", *BORDER),
    "app.chrome_trace": BORDER,
    "app.in_flight": ("app.errors",),
    "app.engine_setup": ("app.config", "app.engine.client", *BORDER, *LEAVES),
    "app.tasks": ("app.tasks", "app.engine.client", *BORDER, *LEAVES, *MODEL_FACTS),
    "app.engine.sampling_params": ("app.errors", "model.beam_search"),
    "app.engine.protocol": ("app.engine.sampling_params",),
    "app.engine.questions": ("app.engine.protocol",),
    "app.engine.framing": ("app.engine.protocol", "app.engine.questions"),
    "app.engine.flight": (),
    "app.engine.turns": ("app.caller",),
    "app.engine.line": ("app.caller", "app.engine.throughput"),
    "app.engine.throughput": (),
    "app.engine.journal": (
        *("app.engine.line", "app.engine.throughput", "app.engine.turns"),
        *("app.caller", "app.errors", *BORDER),
    ),
    "app.engine.process": ("app.engine.flight", *BORDER),
    "app.engine.arrivals": ("app.engine.journal", *BORDER, "app.errors"),
    "app.engine.outlet": (),
    "app.engine.control": (*BORDER, "app.errors"),
    "app.engine.client": (
        *("app.engine.arrivals", "app.engine.control", "app.engine.flight", "app.engine.journal"),
        *("app.engine.outlet", "app.engine.process", "app.engine.supervision", *BORDER, *LEAVES),
    ),
    "app.engine.supervision": ("app.engine.flight", "app.engine.process", *BORDER),
    "app.engine.rules": BORDER,
    "app.engine.token_counts": BORDER,
    "app.engine.grammar": BORDER,
    "app.engine.trial": ("app.engine.grammar",),
    "app.engine.constraint": ("app.engine.grammar", "model.config", "model.tokenization", *BORDER),
    "app.engine.masks": (),
    "app.engine.compiler": (
        *("app.engine.constraint", "app.engine.grammar", "app.engine.masks", "app.engine.trial"),
        *("app.engine.sequence", *BORDER),
    ),
    "app.engine.speculation": (),
    "app.engine.drafting": ("app.engine.sequence", "app.engine.speculation"),
    "app.engine.sequence": (
        *("app.engine.constraint", "app.engine.rules", "app.engine.speculation"),
        *("app.engine.token_counts",),
        *("model.beam_search", *BORDER),
    ),
    "app.engine.block_manager": ("app.engine.sequence", *BORDER),
    "app.engine.prefix_cache": ("app.engine.sequence", "app.engine.block_manager"),
    "app.engine.block_tables": ("app.engine.sequence", "app.engine.block_manager", "app.engine.prefix_cache"),
    "app.engine.lanes": ("app.engine.sequence",),
    "app.engine.scheduled_step": ("app.engine.sequence",),
    "app.engine.scheduler": (
        "app.engine.lanes",
        "app.engine.scheduled_step",
        "app.engine.sequence",
        "app.engine.block_manager",
        "app.engine.block_tables",
        "app.engine.speculation",
        *BORDER,
    ),
    "app.engine": ("app.engine", "app.errors", "app.garbage", "app.logs", "model"),
    "model": ("model",),
}
# ... and from that: what is refused all the same, as (importer, imported).
NEVER = (
    ("app.engine", "app.engine.client"),
    ("app.engine", "app.engine.worker"),
    ("app.engine", "model.training"),
)
TRAINING = "model.training"

TORCH_FREE = (
    *(
        "app.main",
        "app.arguments",
        "app.bench",
        "app.cli",
        "app.commands",
        "app.config",
        "app.registry",
        "app.cards",
        "app.chrome_trace",
        "app.in_flight",
        "app.loading",
        "app.sources",
        "app.garbage",
        "app.version",
        "app.engine_setup",
        "app.otlp",
        "app.tracing",
        *LEAVES,
        "app.api",
        "app.tasks",
        "app.engine.client",
        "app.engine.arrivals",
        "app.engine.control",
        "app.engine.flight",
        "app.engine.journal",
        "app.engine.outlet",
        "app.engine.process",
        "app.engine.supervision",
        "app.engine.turns",
        "app.engine.line",
        "app.engine.throughput",
    ),
    *(
        "app.engine.grammar",
        "app.engine.trial",
        "app.engine.constraint",
        "app.engine.masks",
        "app.engine.compiler",
    ),
    *("app.engine.rules", "app.engine.token_counts", "app.engine.sequence", "app.engine.block_manager"),
    *("app.engine.prefix_cache", "app.engine.block_tables", "app.engine.lanes"),
    *("app.engine.scheduled_step", "app.engine.scheduler"),
    *(*BORDER, *MODEL_FACTS),
)
# (part of the tree, packages it never imports)
FORBIDDEN_PACKAGES = (
    (("app", "model"), ("transformers", "peft", "pickle", "cloudpickle", "dill")),
    (("model", "app.engine"), ("fastapi", "starlette", "pydantic", "prometheus_client", "uvicorn")),
    (("app.tasks",), ("fastapi", "starlette")),
    (("model",), ("asyncio",)),
)
ASYNCIO_IN_ENGINE = (
    *("app.engine.client", "app.engine.process", "app.engine.supervision"),
    *("app.engine.arrivals", "app.engine.control", "app.engine.outlet"),
)


@dataclass(frozen=True)
class Tree:
    """Sources by module name, and what they import."""

    sources: Mapping[str, str]
    packages: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> "Tree":
        sources, packages = {}, set()
        for path in [*root.glob("app/**/*.py"), *root.glob("model/**/*.py")]:
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
                packages.add(".".join(parts))
            sources[".".join(parts)] = path.read_text(encoding="utf-8")
        return cls(sources, frozenset(packages))

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        return {module: set(self._imports_of(module)) for module in self.sources}

    def _imports_of(self, module: str) -> Iterator[str]:
        for node in ast.walk(ast.parse(self.sources[module])):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(module, node)
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in self.sources else base
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("import_module", "__import__")
            ):
                yield from (
                    arg.value
                    for arg in node.args
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                )

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        up = node.level - 1 if module in self.packages else node.level
        return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])

    def project_imports(self, module: str) -> set[str]:
        return {name for name in self.imports[module] if name.split(".")[0] in ("app", "model")}


def is_under(module: str, *prefixes: str) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def wrong_imports(tree: Tree) -> list[str]:
    found = []
    for module in tree.sources:
        rule = max((name for name in MAY_IMPORT if is_under(module, name)), key=len, default=None)
        allowed = MAY_IMPORT[rule] if rule else ()
        for name in sorted(tree.project_imports(module)):
            is_own_root = name == module.split(".")[0]
            never = any(
                is_under(module, who) and is_under(name, whom) and name != module for who, whom in NEVER
            )
            leaves_training = is_under(name, TRAINING) and not is_under(module, TRAINING)
            is_known = name in tree.sources
            if not is_known:
                found.append(f"{module} imports {name}, which does not exist")
            elif not is_own_root and (never or leaves_training or not is_under(name, *allowed)):
                found.append(f"{module} imports {name}")
    return found


def forbidden_packages(tree: Tree) -> list[str]:
    found = []
    for parts, packages in FORBIDDEN_PACKAGES:
        for module in tree.sources:
            if is_under(module, *parts):
                found += [
                    f"{module} imports {name}" for name in tree.imports[module] if is_under(name, *packages)
                ]
    for module in tree.sources:
        if is_under(module, "app.engine") and module not in ASYNCIO_IN_ENGINE:
            found += [
                f"{module} imports asyncio" for name in tree.imports[module] if is_under(name, "asyncio")
            ]
    return found


def torch_reached(tree: Tree) -> list[str]:
    """The chains of imports, packages' own __init__ counted, by which a torch-free module reaches torch."""
    found = []
    for start in tree.sources:
        if not is_under(start, *TORCH_FREE):
            continue
        came_from: dict[str, str] = {start: ""}
        queue = [start]
        while queue:
            module = queue.pop()
            if any(is_under(name, "torch") for name in tree.imports[module]):
                chain = [module]
                while came_from[chain[-1]]:
                    chain.append(came_from[chain[-1]])
                found.append(" → ".join([*reversed(chain), "torch"]))
                break
            nearby = {name for name in tree.project_imports(module) if name in tree.sources}
            parents = {name.rsplit(".", 1)[0] for name in {module, *nearby} if "." in name} & set(
                tree.sources
            )
            for name in (nearby | parents) - set(came_from):
                came_from[name] = module
                queue.append(name)
    return found


def import_cycles(tree: Tree) -> list[str]:
    """Modules that can reach themselves; a package that re-exports its own modules counts."""
    edges = {module: tree.project_imports(module) & set(tree.sources) for module in tree.sources}
    found = []
    for start in edges:
        seen, queue = set[str](), list(edges[start])
        while queue:
            module = queue.pop()
            if module == start:
                found.append(start)
                break
            if module not in seen:
                seen.add(module)
                queue.extend(edges[module])
    return found


def environment_reads(tree: Tree) -> list[str]:
    names = ("environ", "environb", "getenv", "putenv", "unsetenv")
    found = []
    for module, source in tree.sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                reads = node.attr in names
            else:
                reads = isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names)
            if reads and module != "app.config":
                found.append(f"{module}: {ast.unparse(node)}")
    return found


def config_importers(tree: Tree) -> list[str]:
    allowed = ("app.cli", "app.main", "app.registry", "app.engine_setup", "app.config")
    return [
        module for module in tree.sources if "app.config" in tree.imports[module] and module not in allowed
    ]


def file_faults(files: Mapping[str, str]) -> list[str]:
    found = []
    for path, text in files.items():
        lines = text.count("\n")
        limit = MAX_TEST_LINES if path.startswith("tests/") else MAX_LINES
        if lines > limit and path not in LONGER_FILES:
            found.append(f"{path} has {lines} lines")
        if Path(path).stem in BANNED_FILE_NAMES:
            found.append(f"{path}: name the file after what it holds")
        if any(line.lstrip("# ").lower().startswith("copyright") for line in text.splitlines()):
            found.append(f"{path} carries a copyright notice")
    return found


RULES: list[Callable[[Tree], list[str]]] = [
    wrong_imports,
    forbidden_packages,
    torch_reached,
    import_cycles,
    environment_reads,
    config_importers,
]
