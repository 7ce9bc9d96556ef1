"""A constructed batch, its server, and a browser, for the tests of this folder."""

import contextlib
import http.client
import json
import shutil
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from pathology.outputs.results.record import read_slide_record, write_slide_record
from pathology.testing.constructed_results import write_constructed_results
from pathology.viewer.batch import Batch
from pathology.viewer.page import PAGE, SOURCE, PageBuildError, build_page, find_page
from pathology.viewer.server import ViewerServer


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Asks a server; paths are relative to its address unless they begin with a slash."""

    def __init__(self, server):
        self.server = server
        split = urlsplit(server.address)
        self.host, self.token = split.netloc, split.path.strip("/")

    def __call__(self, path, *, method="GET", body=None, **headers):
        path = path if path.startswith("/") else f"/{self.token}/{path}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)) as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            skip = "Host" in names
            connection.putrequest(method, path, skip_host=skip, skip_accept_encoding=True)
            if body is not None:
                names.setdefault("Content-Length", str(len(body)))
            for name, value in names.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())


@contextlib.contextmanager
def serving(*folders, slides=(), page=None):
    server = ViewerServer(Batch(list(folders), slides), page)
    server.start()
    try:
        yield Client(server)
    finally:
        server.close()


@pytest.fixture(scope="session")
def serve():
    return serving


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Two results folders about the same slides; the first with detections and a failed slide."""
    root = tmp_path_factory.mktemp("template")
    size = (3000, 2400)
    write_constructed_results(
        root / "first", slide_ids=("square", "other"), failed=("bad",), detections=60, dimensions=size
    )
    write_constructed_results(
        root / "second", slide_ids=("square",), dimensions=size, classes=("stroma", "necrosis", "tumour")
    )
    return root


@pytest.fixture
def results(template, tmp_path):
    """A copy of the two results folders, and of their slides, for one test alone."""
    root = tmp_path / "results"
    shutil.copytree(template, root)
    for record in root.glob("*/slides/*/slide.json"):
        stored = read_slide_record(record.parent)
        moved = stored.result.model_copy(update={"path": stored.result.path.replace(str(template), str(root))})
        write_slide_record(record.parent, moved, [record.parent / name for name in stored.files])
    return root / "first", root / "second"


@pytest.fixture
def client(results):
    with serving(*results) as client:
        yield client


@pytest.fixture(scope="package")
def shared(template):
    """A server for tests that change nothing."""
    with serving(template / "first", template / "second") as client:
        yield client


@pytest.fixture(scope="session")
def built_page():
    """The built page; built now where the source tree has none."""
    newest = max((path.stat().st_mtime for path in (SOURCE / "src").glob("*")), default=0)
    stale = find_page() is not None and (PAGE / "index.html").stat().st_mtime < newest
    if find_page() is None or stale:
        try:
            build_page()
        except PageBuildError as error:
            pytest.skip(f"the viewer's page is not built and cannot be: {error}")
    return PAGE
