"""Answers are handed out a few a turn, in order, and connections are looked at in between."""

import asyncio
import socket

from app.engine.outlet import AT_ONCE, Outlet


def test_what_was_put_in_first_is_out_first_and_others_have_their_turns() -> None:
    async def scene() -> list[int]:
        outlet = Outlet[int]()
        queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(3)]
        for number in range(4 * AT_ONCE):
            outlet.put(queues[number % 3], number)
        seen = []
        while sum(queue.qsize() for queue in queues) < 4 * AT_ONCE:
            await asyncio.sleep(0)
            seen.append(sum(queue.qsize() for queue in queues))
        outlet.put(queues[0], -1)
        assert await asyncio.wait_for(queues[0].get(), 10) == 0
        for queue, first in zip(queues[1:], (1, 2), strict=True):
            assert [queue.get_nowait() for _ in range(queue.qsize())] == list(range(first, 4 * AT_ONCE, 3))
        wanted = [*range(3, 4 * AT_ONCE, 3), -1]
        assert [await asyncio.wait_for(queues[0].get(), 10) for _ in wanted] == wanted
        return seen

    assert asyncio.run(scene()) == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE, 4 * AT_ONCE]


def test_a_connection_is_heard_before_all_is_handed_out() -> None:
    async def scene() -> int:
        outlet, queue = Outlet[int](), asyncio.Queue[int]()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(b"?")
            for number in range(10 * AT_ONCE):
                outlet.put(queue, number)
            await asyncio.get_running_loop().sock_recv(ours, 1)
            loop = asyncio.get_running_loop()
            theirs.sendall(b"?")
            heard = asyncio.Event()
            loop.add_reader(ours, heard.set)
            await heard.wait()
            loop.remove_reader(ours)
            return queue.qsize()

    assert asyncio.run(scene()) < 10 * AT_ONCE
