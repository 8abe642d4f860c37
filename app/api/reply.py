"""What has gone out of one request's answer."""

from starlette.types import Message, Send


class Reply:
    """Passes messages on and adds the request id to the head; `status` is 0 until that has gone out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self.status = 0
        self.is_events = False
        self.is_complete = False

    async def send(self, message: Message) -> None:
        """In place of the server's own."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], self._header]
            self.is_events = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)
