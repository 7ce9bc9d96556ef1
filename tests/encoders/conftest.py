"""A hub on this machine, and encoders of its own for every test."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub:
    """What the Hugging Face hub answers to its client: files of repositories, each with a commit, some gated."""

    def __init__(self):
        self.files = {}
        self.gated = set()
        self.commits = {}
        self.requests = []

    def put(self, repository, path, content, commit="0" * 39 + "1"):
        """Add a file at a commit, which becomes the newest."""
        self.files[repository, commit, path] = content
        self.commits[repository] = commit

    def handler(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, content=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def do_GET(self):
                hub.requests.append(self.path)
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, path = rest.partition("/")
                if repository not in hub.commits:
                    return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
                if repository in hub.gated:
                    return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
                commit = hub.commits[repository] if revision == "main" else revision
                if not any(key[:2] == (repository, commit) for key in hub.files):
                    return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                content = hub.files.get((repository, commit, path))
                if content is None:
                    return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
                digest = hashlib.sha256(content).hexdigest()
                return self.answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=commit)

            do_HEAD = do_GET

        return Handler


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that listens on the loopback, empty; its client knows no other, nor a token."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_encoders(tmp_path, monkeypatch):
    """An empty folder for encoders."""
    monkeypatch.setenv("PATHOLOGY_ENCODERS", str(tmp_path / "encoders"))
    return tmp_path / "encoders"
