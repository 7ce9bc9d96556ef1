"""What the HTML reports share: the templates, how values are written, and pictures inside the page.

Pages are whole in themselves.  They carry a content security policy that forbids every request, so not even a
hostile slide name could make a page load something.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pathology import __version__
from pathology.bundle.card_page import conformal_said, domain_said
from pathology.outputs import wording

__all__ = ["data_uri", "relative_link", "render"]

_TEMPLATES = Path(__file__).parent / "templates"


def data_uri(content: bytes, media_type: str) -> str:
    """Return a file's content as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def relative_link(*parts: str) -> str:
    """Return path parts as a relative address; every sign with a meaning in addresses is quoted.

    A name in a foreign encoding keeps its bytes, so that the link leads to the file.
    """
    address = "/".join(quote(part.encode("utf-8", "surrogateescape"), safe="") for part in parts)
    # Without this a first part such as "a:b" would read as a scheme.
    return f"./{address}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Also what is no str arrives at the page as valid text.
        finalize=lambda value: value if isinstance(value, Markup) else wording.valid_text(str(value)),
    )
    environment.filters |= {
        "area": wording.area,
        "conformal_said": conformal_said,
        "domain_said": domain_said,
        "duration": wording.duration,
        "heading": wording.heading,
        "percent": wording.percent,
        "scale": wording.scale,
        "sentence": wording.sentence,
    }
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {
        "extent": wording.extent,
        "research_use_only": wording.RESEARCH_USE_ONLY,
        "not_known": wording.NOT_KNOWN,
        "version": __version__,
        # Part of the package, not of any input, so it needs no escaping.
        "sort_script": Markup(script),  # noqa: S704
        "sort_script_digest": digest,
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; every value is escaped.

    Parameters
    ----------
    template
        File name in ``templates/``.
    **values
        What the template names; a missing one is an error.
    """
    return _environment().get_template(template).render(**values)
