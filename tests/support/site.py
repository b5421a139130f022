"""A server of files that can be slow, break off or answer with an error."""

import os
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from seqvis.datasets.download import Patience

HURRY = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, timeout=5)
CONTENT = os.urandom(3_000_000)


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # path -> ETag
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    states: list[int] = field(default_factory=list)  # the next answers have these states
    ranges: bool = True
    chunked: bool = False
    slow: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


def make_handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            span = self.headers.get("Range")
            site.requests.append((self.path, span))
            state = site.states.pop(0) if site.states else 200
            content = site.files.get(self.path)
            if state != 200 or content is None:
                self.send_error(state if state != 200 else 404)
                return
            begin = int(span[6:-1]) if span and site.ranges else 0
            tag = site.tags.get(self.path, "")
            if self.headers.get("If-Range", tag) != tag:
                begin = 0
            if begin and begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                last = f"{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", f"bytes {begin}-{last}")
            if tag:
                self.send_header("ETag", tag)
            self.answer(content[begin:])

        def answer(self, body: bytes) -> None:
            sent = body[: site.cuts.pop(0)] if site.cuts else body
            self.close_connection = True
            if site.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
                if len(sent) == len(body):
                    self.wfile.write(b"0\r\n\r\n")
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = 20_000 if site.slow else len(sent) or 1
            for begin in range(0, len(sent), step):
                self.wfile.write(sent[begin : begin + step])
                time.sleep(0.05 if site.slow else 0)

    return Handler
