"""What the engine process has answered and the caller of a request has not read yet."""

import asyncio

from app.engine.journal import joined
from app.engine.protocol import Answer, Encoded, Failed, Hypotheses, Tokens
from app.errors import EngineFailed, InvalidRequest, QuartetError

Good = Tokens | Hypotheses | Encoded
Arrival = tuple[int, Answer] | QuartetError
Arrivals = asyncio.Queue[Arrival]
"""Of several requests of one caller, each with its place; an error ends them all."""


async def arrived(answers: Arrivals) -> list[tuple[int, Good]]:
    """What has come so far, one answer at least. Tokens of a sequence that came one after the other are one
    answer, so that a reader who is slower than the engine has less to do the further behind it is."""
    items = [await answers.get()]
    while not answers.empty():
        items.append(answers.get_nowait())
    found: list[tuple[int, Good]] = []
    for item in items:
        if isinstance(item, QuartetError):
            raise item
        place, answer = item
        if isinstance(answer, Failed):
            if answer.kind == "invalid":
                raise InvalidRequest(answer.message, answer.param)
            raise EngineFailed(answer.message)
        if isinstance(answer, Tokens) and found and found[-1][0] == place:
            before = found[-1][1]
            assert isinstance(before, Tokens)
            found[-1] = place, joined(before, answer)
        else:
            found.append((place, answer))
    return found
