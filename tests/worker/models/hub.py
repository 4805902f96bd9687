"""A hub on loopback, as much of one as a download asks for."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """As much of a hub as a download asks for: org/tiny is open, org/gated is not."""

    daemon_threads = True

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = files
        self.served: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/api/models/org/gated", "/org/gated")):
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/org/tiny/tree/"):
            self.reply(200, json.dumps([self.entry(name) for name in self.names()]).encode())
        elif path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in self.names()]
            about = {"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": siblings}
            self.reply(200, json.dumps(about).encode())
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(f"/org/tiny/resolve/{COMMIT}/"))
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def names(self) -> list[str]:
        files = self.server.files
        return [str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()]

    def entry(self, name: str) -> dict[str, object]:
        content = (self.server.files / name).read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def send_file(self, name: str) -> None:
        content = (self.server.files / name).read_bytes()
        if self.command == "GET":
            self.server.served.add(name)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.reply(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the requests are the client's business."""
