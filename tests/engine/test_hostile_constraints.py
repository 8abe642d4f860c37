"""Constraints that cannot be served, or would take for ever: refused in words while other sequences go on."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.compiler import Compiler
from app.engine.constraint import Grammar, Vocabulary, compile_constraint
from app.engine.engine import Engine
from app.engine.grammar import ConstraintError, fault_line
from app.engine.masks import Masks
from app.engine.protocol import Constraint, ConstraintKind, Failed, Tokens
from app.engine.trial import try_out
from model.tokenization import Spelling
from tests.engine.constrained import make_engine, request, run, write_folder

REFERENCES = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(900)}
DOUBLING = "".join(f"T{i}: T{i + 1} T{i + 1}\n" for i in range(40))
BRANCHES = [{"anyOf": [{"properties": {f"{k}{i}": {"type": "string"}}} for k in "ab"]} for i in range(25)]
CHAIN = "".join(f't{i}: t{i + 1} | "a"\n' for i in range(3300)) + 't3300: "a"'

HOSTILE: dict[str, tuple[ConstraintKind, object]] = {
    "a regex that does not end": ("regex", "[a-"),
    "a regex with an unknown escape": ("regex", r"\q"),
    "a look-ahead": ("regex", "(?=a)b"),
    "a reference back": ("regex", r"(a)\1"),
    "brackets without end": ("regex", "(" * 10_000 + "a" + ")" * 10_000),
    "nothing fits": ("regex", "[^\\s\\S]"),
    "no grammar": ("grammar", ""),
    "no start": ("grammar", 'rule: "a"'),
    "an unknown rule": ("grammar", 'start: "a" b'),
    "another library's grammar": ("grammar", "root ::= 'a'"),
    "a list of grammars": ("grammar", '{"grammars": []}'),
    "a string that does not end": ("grammar", 'start: "abc'),
    "a terminal of 2^40 letters": ("grammar", f'start: T0\n{DOUBLING}T40: "a"'),
    "a chain that overflows the stack": ("grammar", f"start: t0\n{CHAIN}"),
    "no schema": ("json_schema", {"type": "thing"}),
    "a reference to nowhere": ("json_schema", {"$ref": "#/$defs/a"}),
    "a reference to elsewhere": ("json_schema", {"$ref": "http://localhost:1/schema"}),
    "a schema that refers to itself alone": ("json_schema", {"$ref": "#"}),
    "2^25 combinations": ("json_schema", {"allOf": BRANCHES}),
    "patterns that take for ever to intersect": (
        "json_schema",
        {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(3, 40)]},
    ),
    "thousands of optional properties": (
        "json_schema",
        {"type": "object", "properties": {f"p{i}": {} for i in range(2500)}},
    ),
    "a keyword that is not supported": ("json_schema", {"type": "array", "uniqueItems": True}),
    "nested too deeply": ("json_schema", '{"items":' * 500 + "{}" + "}" * 500),
    "what JSON is not": ("json_schema", {"minimum": float("nan")}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hostile") / "bytes")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return make_engine(folder, dtype="float32")


def steps_until_refused(engine: Engine, kind: ConstraintKind, text: object) -> tuple[Failed, int]:
    """The refusal, and how many tokens a free sequence got before it."""
    engine.add(request(1, kind, text))
    num_tokens, free = 0, 2
    engine.add(request(free, max_tokens=1000, ignore_eos=True))
    while True:
        for output in engine.step().outputs:
            if isinstance(output, Failed):
                engine.abort([free])
                return output, num_tokens
            assert isinstance(output, Tokens)
            assert output.id == free, "nothing is generated under such a constraint"
            num_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                free += 1
                engine.add(request(free, max_tokens=1000, ignore_eos=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_while_another_sequence_goes_on(engine: Engine, name: str) -> None:
    kind, text = HOSTILE[name]
    failed, num_tokens = steps_until_refused(engine, kind, text)
    assert (failed.id, failed.kind, failed.param) == (1, "invalid", kind)
    assert failed.message.startswith(f"{kind}: ")
    assert len(failed.message.encode()) < 1500
    assert num_tokens > 0
    assert not engine.has_work


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a regex that does not end", "unclosed character class"),
        ("an unknown rule", 'at 1(8): unknown name: "b"'),
        ("a keyword that is not supported", "uniqueItems"),
        ("nothing fits", "no text fits"),
        ("patterns that take for ever to intersect", "too much time or memory"),
    ],
)
def test_the_refusal_says_why(engine: Engine, name: str, words: str) -> None:
    """They were all refused before: the answer is remembered."""
    failed, _ = steps_until_refused(engine, *HOSTILE[name])
    assert words in failed.message


def test_references_in_a_long_row_are_served(engine: Engine) -> None:
    schema = {"$ref": "#/$defs/d0", "$defs": REFERENCES | {"d900": {"type": "string"}}}
    outcome = run(engine, [request(1, "json_schema", schema)])
    assert outcome.text(1).startswith("[")


def test_equal_constraints_are_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr("app.engine.compiler.try_out", tried.append)
    engine = make_engine(folder)
    requests = [request(i, "choice", ["ja", "nein"]) for i in range(6)]
    first, again = run(engine, requests), run(engine, requests)
    assert first.tokens == again.tokens
    assert {first.text(i) for i in range(6)} == {"ja", "nein"}
    assert len(tried) == 1
    run(engine, [request(1, "choice", ["ja", "nie"])])
    assert len(tried) == 2


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Constraint]:
    """What is compiled, as it comes."""
    seen: list[Constraint] = []

    def compile_and_note(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
        seen.append(constraint)
        return compile_constraint(constraint, vocabulary)

    monkeypatch.setattr("app.engine.compiler.compile_constraint", compile_and_note)
    monkeypatch.setattr("app.engine.compiler.try_out", lambda grammar: None)
    return seen


def test_a_grammar_that_met_a_limit_is_compiled_anew(folder: Path, compiled: list[Constraint]) -> None:
    engine = make_engine(folder)
    one = request(1, "regex", "((a{0,100}){0,100}){0,100}", max_tokens=1000, ignore_eos=True)
    failed = run(engine, [one]).failed[1]
    assert (failed.kind, failed.param) == ("invalid", "regex")
    assert "too many" in failed.message
    assert run(engine, [one]).failed == {1: failed}
    assert len(compiled) == 2


def test_a_grammar_in_long_use_is_compiled_anew(
    folder: Path, compiled: list[Constraint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.constraint.MAX_SHARED_TOKENS", 25)
    engine = make_engine(folder)
    for _ in range(5):  # of ten tokens each
        assert run(engine, [request(1, "regex", "a{10}")]).text(1) == "a" * 10
    assert len(compiled) == 2


def test_who_leaves_while_its_constraint_is_compiled_is_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go = threading.Event()
    monkeypatch.setattr("app.engine.compiler.try_out", lambda grammar: may_go.wait(60))
    engine = make_engine(folder)
    for number in (1, 2):
        engine.add(request(number, "regex", "a{3}"))
    engine.abort([1, 2])
    engine.add(request(3, "regex", "a{3}"))
    engine.abort([3])
    may_go.set()
    outcome = run(engine, [request(4, "regex", "a{3}")])
    assert outcome.text(4) == "aaa"
    assert outcome.tokens.keys() == {4}


def test_a_fault_of_ours_is_told_as_such_and_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(grammar: str) -> None:
        raise OSError("no process can be started")

    engine = make_engine(folder)
    monkeypatch.setattr("app.engine.compiler.try_out", broken)
    failed = run(engine, [request(1, "regex", "aa")]).failed[1]
    assert (failed.kind, failed.param) == ("internal", None)
    assert "no process can be started" in caplog.text
    monkeypatch.setattr("app.engine.compiler.try_out", lambda grammar: None)
    assert run(engine, [request(1, "regex", "aa")]).text(1) == "aa"


def test_a_model_whose_tokens_spell_nothing_refuses(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bytes")
    (folder / "tokenizer.json").unlink()
    failed = run(make_engine(folder), [request(1, "regex", "a")]).failed[1]
    assert "not served by this model" in failed.message


def test_what_a_vocabulary_cannot_begin_is_refused() -> None:
    vocabulary = Vocabulary.of(Spelling([b"a", b"b"], drops_first_blank=False), 4)
    compile_constraint(Constraint("regex", "a+", "regex"), vocabulary)
    with pytest.raises(ConstraintError, match="vocabulary"):
        compile_constraint(Constraint("regex", "x+", "regex"), vocabulary)


def test_a_trial_has_no_words_for_what_is_fine() -> None:
    try_out("start: /a+/")


def test_faults_are_one_line_without_the_source() -> None:
    told = "at 1(8): no such thing\n   1 | start: secret\n     ^\nerror: look here"
    assert fault_line(told, "regex") == "no such thing error: look here"
    assert fault_line(told) == "at 1(8): no such thing error: look here"
    assert len(fault_line("x" * 10_000)) == 300


class Fake:
    """A matcher whose mask may wait for ever; those of one group share a fault."""

    def __init__(self, group: "Group", gate: threading.Event | None = None) -> None:
        self.grammar, self._gate = group, gate
        self.is_filled = False
        self.fault: str | None = None
        self.thread: threading.Thread | None = None

    def fill(self) -> None:
        self.thread = threading.current_thread()
        if self.grammar.fault is not None:
            self.give_up(self.grammar.fault)
            return
        if self._gate is not None:
            self._gate.wait(60)
        self.is_filled = True

    def give_up(self, fault: str) -> None:
        self.fault = fault


class Group:
    fault: str | None = None


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_mask_that_does_not_end_costs_its_own_group_alone(gate: threading.Event) -> None:
    bad, good = Group(), Group()
    matchers = [Fake(good), Fake(bad, gate), Fake(good), Fake(bad, gate), Fake(good)]
    masks = Masks(seconds=0.05)
    for _ in range(2):
        masks.fill(matchers)
        assert [matcher.is_filled for matcher in matchers] == [True, False, True, False, True]
        assert [matcher.fault is not None for matcher in matchers] == [False, True, False, True, False]


def test_a_thread_that_was_left_behind_touches_no_other_matcher(gate: threading.Event) -> None:
    """The others go on by then, and are filled by another thread."""
    matchers = [Fake(Group(), gate), Fake(Group())]
    masks = Masks(seconds=0.05)
    masks.fill(matchers)
    left = matchers[0].thread
    assert left is not None
    assert left is not matchers[1].thread
    matchers[1].is_filled = False
    gate.set()
    left.join(60)
    assert not left.is_alive()
    assert [matcher.is_filled for matcher in matchers] == [True, False]


def test_a_fault_in_a_mask_ends_that_one_alone() -> None:
    class Broken(Fake):
        def fill(self) -> None:
            raise RuntimeError("seeded fault")

    masks = Masks()
    broken, others = Broken(Group()), [Fake(Group()) for _ in range(2)]
    masks.fill([others[0], broken, others[1]])
    assert broken.fault == broken.grammar.fault == "cannot be followed"
    assert all(one.is_filled for one in others)


def test_a_compiler_without_work_has_no_news() -> None:
    compiler = Compiler()
    assert not compiler.has_news
    assert compiler.take() == ([], [])
