"""Shared parts of the HTML pages: base templates, value formatting and embedded images.

Pages are self-contained.  Their content security policy forbids every request, so not even a
malicious slide name can make a page load a resource.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pathology import formatting
from pathology._version import __version__
from pathology.path_text import valid_text

__all__ = ["data_uri", "page_environment", "relative_link"]

_TEMPLATES = Path(__file__).parent / "templates"


def data_uri(content: bytes, media_type: str) -> str:
    """Return file content as a data URI.

    Examples
    --------
    >>> data_uri(b"abc", "text/plain")
    'data:text/plain;base64,YWJj'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def relative_link(*parts: str) -> str:
    """Return path parts as a relative URL, with reserved characters quoted.

    A name in another encoding keeps its bytes, so that the link resolves to the file.

    Examples
    --------
    >>> relative_link("slides", "a:b", "report.html")
    './slides/a%3Ab/report.html'
    """
    address = "/".join(quote(part.encode("utf-8", "surrogateescape"), safe="") for part in parts)
    # Without "./", a first part such as "a:b" would be parsed as a scheme.
    return f"./{address}"


@cache
def page_environment(templates: Path | None = None) -> Environment:
    """Return the Jinja environment of the pages; values are escaped and undefined values are errors.

    Parameters
    ----------
    templates
        Additional template folder; its templates may extend and include the shared ones.
    """
    environment = Environment(
        loader=FileSystemLoader([folder for folder in (templates, _TEMPLATES) if folder is not None]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Non-string values also arrive on the page as valid text.
        finalize=lambda value: value if isinstance(value, Markup) else valid_text(str(value)),
    )
    environment.filters |= {
        "area": formatting.area,
        "duration": formatting.duration,
        "heading": formatting.heading,
        "percent": formatting.percent,
        "scale": formatting.scale,
        "sentence": formatting.sentence,
    }
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {
        "extent": formatting.extent,
        "research_use_only": formatting.RESEARCH_USE_ONLY,
        "not_known": formatting.NOT_KNOWN,
        "version": __version__,
        # Part of the package, not user input, so it needs no escaping.
        "sort_script": Markup(script),  # noqa: S704
        "sort_script_digest": digest,
    }
    return environment
