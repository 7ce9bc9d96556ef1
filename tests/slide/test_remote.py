import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import fsspec
import pytest

from pathology.errors import MissingDependencyError, OutputError, SlideError, SlideNotFoundError, UsageError
from pathology.slide import remote
from pathology.slide.open import open_reader
from pathology.slide.remote import local_copy, remote_signature, slides_at, url_of
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    slide = write_svs(tmp_path / "slide.svs", TissuePicture(500, 400), factors=(1,))
    system.pipe("/bucket/a/slide.svs", slide.read_bytes())
    system.pipe("/bucket/b/other.tiff", b"nothing")
    system.pipe("/bucket/notes.txt", b"nothing")
    yield system
    system.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/slide.svs", "s3://bucket/slide.svs"),
        (Path("s3://bucket/slide.svs"), "s3://bucket/slide.svs"),
        (Path("simplecache::memory://a/b.svs"), "simplecache::memory://a/b.svs"),
        (Path("file:///data/a.svs"), "file:///data/a.svs"),
        ("/data/slide.svs", None),
        ("slide.svs", None),
        ("C:/slides/a.svs", None),
        ("strange: name.svs", None),
    ],
)
def test_addresses_and_paths(given, url):
    assert url_of(given) == url


def test_lists_slides_below_an_address(memory):
    assert slides_at("memory://bucket") == ["memory://bucket/a/slide.svs", "memory://bucket/b/other.tiff"]
    assert slides_at("memory://bucket/a/slide.svs") == ["memory://bucket/a/slide.svs"]


def test_a_copy_is_made_once(memory, tmp_path):
    copy = local_copy("memory://bucket/a/slide.svs")
    assert copy.read_bytes() == (tmp_path / "slide.svs").read_bytes()
    with open_reader(copy) as reader:
        assert reader.dimensions == (500, 400)
    before = copy.stat().st_mtime_ns
    assert local_copy("memory://bucket/a/slide.svs") == copy
    assert copy.stat().st_mtime_ns == before
    assert not list(copy.parent.glob("*.partial"))


def test_a_changed_slide_is_copied_again(memory):
    before = local_copy("memory://bucket/b/other.tiff")
    signature = remote_signature("memory://bucket/b/other.tiff")
    memory.pipe("/bucket/b/other.tiff", b"something else")
    assert remote_signature("memory://bucket/b/other.tiff") != signature
    assert local_copy("memory://bucket/b/other.tiff") != before
    assert local_copy("memory://bucket/b/other.tiff").read_bytes() == b"something else"


def test_a_file_is_not_copied(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"x")
    assert local_copy(f"file://{tmp_path}/a.svs") == tmp_path / "a.svs"


def test_the_oldest_copies_make_room(memory, monkeypatch):
    first = local_copy("memory://bucket/a/slide.svs")
    os.utime(first.parent, (1, 1))
    Usage = namedtuple("Usage", "total used free")
    free = iter([0, 10**12])
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: Usage(0, 0, next(free)))
    local_copy("memory://bucket/b/other.tiff")
    assert not first.exists()


def test_no_room_at_all(memory, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    with pytest.raises(OutputError, match="not enough disk space"):
        local_copy("memory://bucket/a/slide.svs")


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("memory://bucket/none.svs", SlideNotFoundError, "nothing found at this URL"),
        ("memory://nowhere", SlideNotFoundError, "nothing found at this URL"),
        ("nonsense://bucket/a.svs", UsageError, "invalid URL"),
        ("http://127.0.0.1:1/slide.svs", SlideError, "URL|storage"),
    ],
)
def test_says_what_is_wrong(memory, url, error, said):
    with pytest.raises(error, match=said):
        slides_at(url)


def test_a_missing_library_is_named(memory, monkeypatch):
    def missing(url):
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(remote, "_system", missing)
    with pytest.raises(MissingDependencyError, match="gcsfs"):
        slides_at("gs://bucket/a.svs")


def test_slides_of_several_files_are_refused(memory):
    memory.pipe("/bucket/c/slide.mrxs", b"index")
    with pytest.raises(UsageError, match="several files"):
        slides_at("memory://bucket")


def test_processes_fetch_a_slide_once_between_them(tmp_path):
    import http.server
    import threading
    from functools import partial

    (tmp_path / "served").mkdir()
    write_svs(tmp_path / "served" / "slide.svs", TissuePicture(500, 400), factors=(1,))
    fetched = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/slide.svs"
        program = f"from pathology.slide.remote import local_copy; print(local_copy({url!r}))"
        environment = {**os.environ, "PATHOLOGY_CACHE": str(tmp_path / "cache")}
        running = [
            subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        copies = {process.communicate(timeout=120)[0].strip() for process in running}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(copies) == 1
    assert Path(copies.pop()).read_bytes() == (tmp_path / "served" / "slide.svs").read_bytes()
    assert fetched == ["/slide.svs"]
