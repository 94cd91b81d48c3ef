"""A Hugging Face hub on this machine: its API, its redirects to another host for the files, and its failures."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

COMMIT = hashlib.sha1(b"the dataset as it is").hexdigest()
PAGE = 3  # entries of a tree listing that come at once; the real hub has 1000
PIECE = 4096


class Asked(NamedTuple):
    """A request as it came."""

    host: str  # hub, or cdn
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """Datasets by repository and path. What is set in the mappings goes wrong, by the path of a file."""

    datasets: dict[str, dict[str, bytes]]
    asked: list[Asked] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)  # at these bytes of the file, one answer after the other
    damaged: dict[str, int] = field(default_factory=dict)  # so many times
    missing: set[str] = field(default_factory=set)
    stall: dict[str, int] = field(default_factory=dict)  # after so many bytes, until `go_on`
    status: int = 200  # of every answer of the API
    html: bool = False  # answers that are no hub's
    ranges: bool = True
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Hub":
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, host)) for host in ("hub", "cdn")]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def downloads(self, path: str | None = None) -> list[Asked]:
        """Requests for the content of files."""
        names = {
            hashlib.sha256(data).hexdigest(): name for files in self.datasets.values() for name, data in files.items()
        }
        return [a for a in self.asked if a.host == "cdn" and path in (None, names[a.path.removeprefix("/repos/")])]

    def find(self, sha256: str) -> tuple[str, bytes]:
        return next(
            (name, data)
            for files in self.datasets.values()
            for name, data in files.items()
            if hashlib.sha256(data).hexdigest() == sha256
        )


def _handler(hub: Hub, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            hub.asked.append(
                Asked(host, self.command, url.path, self.headers.get("Range"), self.headers.get("Authorization"))
            )
            if host == "cdn":
                self.send_file(url.path)
            elif hub.html:
                self.send(200, b"<html>Welcome to the airport</html>", {"Content-Type": "text/html"})
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/revision/main", url.path):
                self.send_json(
                    {"_id": "1", "id": match[1], "sha": COMMIT, "private": False, "tags": [], "downloads": 1}
                )
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(\w+)", url.path):
                self.send_tree(match[1], match[2], parse_qs(url.query))
            elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(\w+)/(.+)", url.path):
                self.redirect(match[1], match[2], match[3])
            else:
                self.send(404, b"")

        def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
            if hub.status != 200:
                self.send(hub.status, b'{"error":"no"}')
                return
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def send_tree(self, repo: str, revision: str, query: dict[str, list[str]]) -> None:
            if revision != COMMIT or repo not in hub.datasets:
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            folders = sorted({path.split("/")[0] for path in hub.datasets[repo] if "/" in path})
            entries: list[dict[str, Any]] = [
                {"type": "file", "path": ".gitattributes", "size": 9, "oid": "1" * 40},
                *({"type": "directory", "path": name, "size": 0, "oid": "2" * 40} for name in folders),
            ]
            for path, data in sorted(hub.datasets[repo].items()):
                lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                entries.append(
                    {"type": "file", "path": path, "size": len(data), "oid": "3" * 40, "lfs": lfs, "xetHash": "4" * 64}
                )
            start = int(query.get("cursor", ["0"])[0])
            more = f'<{hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}>; rel="next"'
            link = {"Link": more} if start + PAGE < len(entries) else {}
            self.send_json(entries[start : start + PAGE], link)

        def redirect(self, repo: str, revision: str, path: str) -> None:
            data = hub.datasets.get(repo, {}).get(path)
            if data is None or path in hub.missing or revision != COMMIT:
                self.send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            sha256 = hashlib.sha256(data).hexdigest()
            headers = {
                "Location": f"{hub.cdn}/repos/{sha256}?X-Amz-Signature=abc&response-content-disposition=attachment",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{sha256}"',
                "ETag": '"of the redirect"',
                "X-Xet-Hash": "4" * 64,
                "Link": f'<{hub.url}/api/datasets/{repo}/xet-read-token/{COMMIT}>; rel="xet-auth"',
            }
            self.send(302, b"Found. Redirecting", headers)

        def send_file(self, url: str) -> None:
            path, data = hub.find(url.removeprefix("/repos/"))
            size, start = len(data), 0
            if hub.damaged.get(path, 0):
                hub.damaged[path] -= 1
                data = data[: size // 2] + bytes([data[size // 2] ^ 1]) + data[size // 2 + 1 :]
            if (given := self.headers.get("Range")) and hub.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", given)[1])  # type: ignore[index]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(size - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            stop = hub.cut[path].pop(0) if hub.cut.get(path) else size
            pause = hub.stall.get(path, size)
            for at in range(start, stop, PIECE):
                if at >= pause and not hub.go_on.is_set():
                    hub.stalled.set()
                    hub.go_on.wait()
                try:
                    self.wfile.write(data[at : min(at + PIECE, stop)])
                except OSError:  # whoever asked is gone
                    break
            self.close_connection = stop < size

    return Handler
