"""How ``pathology view`` opens the browser: the token is in no process's arguments."""

import stat
import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pathology.cli import view
from pathology.viewer.server import ViewerServer


def test_the_token_is_not_in_the_arguments_of_the_browser(template, monkeypatch, capsys):
    opened = []

    def open_browser(address):
        page = Path(unquote(urlsplit(address).path))
        opened.append((address, page, page.read_text(), page.stat().st_mode, page.parent.stat().st_mode))

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", open_browser)
    monkeypatch.setattr(ViewerServer, "serve", stop)
    view.run([template / "first"], slides=[], patients=None, port=0, browser=True)
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Viewer: "))
    token = urlsplit(said.removeprefix("Viewer: ")).path.strip("/")
    ((address, page, text, mode, folder),) = opened
    assert len(token) >= 32
    assert token not in address
    assert token in text
    assert (stat.S_IMODE(mode), stat.S_IMODE(folder)) == (0o600, 0o700)
    assert not page.exists()
