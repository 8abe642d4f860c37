"""Each row of the tables is refused in its family's words, and the next request is answered at once."""

import http.client
import json
import socket
from contextlib import closing
from typing import Any

import pytest

from app.api.dialects import dialect_of
from tests.api.bad_client_inputs import HUGGING_FACE, LIBRE_TRANSLATE, OPENAI
from tests.api.bad_inputs import GENERATE, NATIVE, WHOLE_BODIES, Bad
from tests.api.conftest import Service
from tests.api.test_dialects import check_shape

ALL = [*NATIVE, *OPENAI, *HUGGING_FACE, *LIBRE_TRANSLATE, *WHOLE_BODIES]
GOOD = Bad("good", "/v1/generate", GENERATE, "")
SECONDS = 5.0
"""Far less than any time-out of the service's own but the body's."""


class Client:
    """A socket on which whole requests and broken ones are sent, byte by byte as given."""

    def __init__(self, port: int | None, seconds: float = SECONDS) -> None:
        self._address = ("127.0.0.1", port)
        self._seconds = seconds
        self.num_opened = 0
        self._open()

    def _open(self) -> None:
        self.num_opened += 1
        self.socket = socket.create_connection(self._address, timeout=self._seconds)

    def ask(self, raw: bytes, method: str = "POST") -> http.client.HTTPResponse:
        """Sends it and reads the answer to its end; opens another one where the service closed this."""
        self.socket.sendall(raw)
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        self.content = response.read()
        if response.will_close:
            self.socket.close()
            self._open()
        return response

    def fault(self) -> Any:
        return json.loads(self.content)

    def close(self) -> None:
        self.socket.close()


def test_the_names_tell_the_rows_apart() -> None:
    names = [bad.name for bad in ALL]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.name)
def test_it_is_refused_and_the_next_is_answered(shared: Service, bad: Bad) -> None:
    with closing(Client(shared.port)) as client:
        response = client.ask(bad.raw(), bad.method)
        assert response.status == bad.status, client.content
        check_words(client.fault(), bad)
        assert client.num_opened == 1 or bad.status == 413
        assert client.ask(GOOD.raw()).status == 200


def check_words(body: Any, bad: Bad) -> None:
    """In the family's shape, short, and with the name of what is wrong."""
    dialect = dialect_of(bad.path)
    check_shape(body, dialect)
    told = body["error"]
    words = f"{told['message']} {told['param']}" if dialect == "openai" else told
    assert bad.names in words
    assert len(words) < 1000
