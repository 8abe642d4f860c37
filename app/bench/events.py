"""Server-sent events out of bytes that may be cut anywhere, in the middle of a character too."""


class EventReader:
    """Give it what comes; it gives the data of each event that is whole by then."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        """The `data` of the events that this piece completes, comments and other fields left out."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data).decode("utf-8", errors="replace"))
                self._data = []
        return events
