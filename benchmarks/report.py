"""Write measured tables to documentation pages."""

from pathlib import Path


def write_section(page: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- measured: NAME -->`` and ``<!-- end -->`` in a page.

    Raises
    ------
    ValueError
        If the page has no such section.
    """
    content = page.read_text(encoding="utf-8")
    begin = f"<!-- measured: {name} -->"
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition("<!-- end -->")
    if not found or not closed:
        raise ValueError(f"{page} has no section {begin} ... <!-- end -->")
    page.write_text(f"{before}{begin}\n{text}\n{closed}{after}", encoding="utf-8")
