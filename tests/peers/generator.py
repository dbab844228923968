"""A generation server that answers every request with one PLY file. Standard library only.

  POST /generate/   form, urlencoded or multipart, field `prompt`                       (workers.md 1.1)
  POST /generate    multipart, file `prompt_image_file`, optional field `seed`          (workers.md 1.2)
  GET  /health      {"status": "healthy"}

A request the real servers would answer 422 gets 422 here. stdout: {"ready": true, "port"}, then on SIGTERM the
report with one entry per request.
"""

import argparse
import email
import email.policy
import hashlib
import http.server
import json
import signal
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

Form = dict[str, list[bytes]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ply", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the reply begins")
    parser.add_argument("--status", type=int, default=200, help="status of the replies to /generate")
    return parser.parse_args()


def read_form(content_type: str, body: bytes) -> Form:
    if content_type.startswith("application/x-www-form-urlencoded"):
        fields = urllib.parse.parse_qs(body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body))
        return {name: [value.encode() for value in values] for name, values in fields.items()}
    form: Form = {}
    if content_type.startswith("multipart/form-data"):
        head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            form.setdefault(str(name), []).append(part.get_payload(decode=True) or b"")
    return form


class Generator(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, ply: bytes, delay: float, status: int):
        super().__init__(("127.0.0.1", port), Reply)
        self.ply = ply
        self.delay = delay
        self.status = status
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.running = 0
        self.most_at_once = 0

    def entered(self, entry: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append(entry)
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)

    def left(self) -> None:
        with self.lock:
            self.running -= 1

    def report(self) -> dict[str, Any]:
        with self.lock:
            served = sum(entry["status"] == 200 for entry in self.requests)
            return {
                "requests": len(self.requests),
                "served": served,
                "most_at_once": self.most_at_once,
                "log": self.requests,
            }


class Reply(http.server.BaseHTTPRequestHandler):
    server: Generator
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path in ("/health", "/health/"):
            self.answer(200, "application/json", b'{"status":"healthy"}')
        else:
            self.answer(404, "application/json", b'{"detail":"Not Found"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content_type = self.headers.get("Content-Type", "")
        form = read_form(content_type, body)
        entry: dict[str, Any] = {"path": self.path, "content_type": content_type.split(";")[0], "fields": sorted(form)}
        if seed := form.get("seed"):
            entry["seed"] = seed[-1].decode()
        if self.path == "/generate/" and (prompt := form.get("prompt")):
            entry |= {"prompt": prompt[-1].decode(), "status": self.server.status}
        elif self.path == "/generate" and (image := form.get("prompt_image_file")):
            entry |= {
                "image_bytes": len(image[-1]),
                "image_sha256": hashlib.sha256(image[-1]).hexdigest(),
                "status": self.server.status,
            }
        else:
            entry["status"] = 422 if self.path in ("/generate/", "/generate") else 404
        self.server.entered(entry)
        if entry["status"] == 200:
            time.sleep(self.server.delay)
        # Before the reply: whoever has read it may ask again at once.
        self.server.left()
        if entry["status"] == 200:
            self.answer(200, "application/octet-stream", self.server.ply)
        else:
            self.answer(entry["status"], "application/json", b'{"detail":"refused"}')

    def answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        print(f"generator: {format % args}", file=sys.stderr)


def main() -> int:
    options = arguments()
    generator = Generator(options.port, options.ply.read_bytes(), options.delay, options.status)
    # `shutdown` waits for the serving loop, which the signal handler interrupts.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=generator.shutdown).start())
    print(json.dumps({"ready": True, "port": generator.server_port}), flush=True)
    generator.serve_forever(poll_interval=0.05)
    print(json.dumps(generator.report()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
