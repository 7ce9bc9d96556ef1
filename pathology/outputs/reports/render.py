"""Rendering of the report templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathology.bundle.card_page import conformal_said, domain_said
from pathology.reports.html import page_environment

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Render a template of this folder; every value is escaped.

    Parameters
    ----------
    template
        File name in ``templates/``.
    **values
        Variables of the template; a missing one is an error.
    """
    environment = page_environment(_TEMPLATES)
    environment.filters |= {"conformal_said": conformal_said, "domain_said": domain_said}
    return environment.get_template(template).render(**values)
