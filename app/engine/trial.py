"""Tries a grammar where it can do no harm: `python -m app.engine.trial`, a process with little time and memory.

Reads llguidance's grammar from stdin, compiles it over a vocabulary of single bytes and takes a random walk through
it; writes one line on what is wrong, nothing where it is fine. Whoever exhausts what it is given is killed by the
system: llguidance's own limits do not hold everywhere (an intersection of many patterns takes minutes, a long
enough chain of rules overflows the stack), and a library's thread cannot be stopped.
"""

import random
import resource
import subprocess
import sys

from llguidance import LLMatcher, LLTokenizer

from app.engine.grammar import DEAD_END, ConstraintError, limits

CPU_SECONDS = 2
_MEMORY_BYTES = 2**30
_WALL_SECONDS = 60.0
"""For a machine so busy that two seconds of its processor take as long."""
_NUM_STEPS = 64


def try_out(grammar: str) -> None:
    """Blocks until a process has tried it. Raises ConstraintError for what is refused there, TimeoutExpired."""
    command = [sys.executable, "-m", "app.engine.trial"]
    done = subprocess.run(
        command, input=grammar.encode(), capture_output=True, timeout=_WALL_SECONDS, process_group=0
    )
    if done.returncode:
        raise ConstraintError("takes too much time or memory to compile")
    if done.stdout:
        raise ConstraintError(done.stdout.decode())


def walk(grammar: str) -> str:
    """What is wrong with a grammar, "" for nothing."""
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    draw = random.Random(0)
    num_steps = 0
    while num_steps < _NUM_STEPS:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error():
            break
        bytes_allowed = [byte for byte in range(256) if mask >> byte & 1]
        if matcher.is_stopped() or not bytes_allowed:
            return ""
        matcher.consume_token(draw.choice(bytes_allowed))
        num_steps += 1
    fault = matcher.get_error()
    if fault.startswith(DEAD_END):
        return "" if num_steps else "no text fits it"
    return fault


def main() -> None:
    """Takes the grammar from stdin."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    sys.stdout.buffer.write(walk(sys.stdin.buffer.read().decode()).encode())


if __name__ == "__main__":
    main()
