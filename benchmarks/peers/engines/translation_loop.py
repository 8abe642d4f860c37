"""Translation over HTTP as LibreTranslate does it, a request at a time, without all that it adds:
`python -m benchmarks.peers.engines.translation_loop FOLDER COMPUTE_TYPE PORT`.

A thread for each connection, one CTranslate2 model, a lock before it. POST `{"text": words, "max_tokens": n}` →
`{"text": words}` of n tokens. Only the standard library beside CTranslate2.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

import ctranslate2

from benchmarks.peers.engines.lines import THREADS

END = "w0"


def main(folder: str, compute_type: str, port: str) -> None:
    translator = ctranslate2.Translator(
        folder, device="cpu", compute_type=compute_type, intra_threads=THREADS
    )
    one_by_one = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({"status": "ok"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            new = asked["max_tokens"]
            with one_by_one:
                (result,) = translator.translate_batch(
                    [[*asked["text"].split(), END]],
                    beam_size=1,
                    max_decoding_length=new,
                    min_decoding_length=new,
                )
            assert len(result.hypotheses[0]) == new
            self._answer({"text": " ".join(result.hypotheses[0])})

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
