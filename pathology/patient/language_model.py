"""An optional rewording by a language model behind an OpenAI-compatible address.  Off unless an address is given.

What leaves the machine are the finished sentences of the plain page, which hold no id and no date.  What comes back
is read by no one before it has passed three checks: it holds no number that the record lacks, it gives no advice on
treatment, and it is not longer than twice what was sent.  Otherwise the templates stand, and the page says why.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pathology.patient.patient_summary import PlainText, Sentence, as_sentences, untraced_numbers
from pathology.patient.readability import readability
from pathology.patient.record import PatientRecord
from pathology.settings import Record

__all__ = ["LanguageModelSettings", "objections", "reword"]

_TASK = (
    "Rewrite the text below for a patient, in short, kind and plain English sentences. Keep every fact. Add no fact, "
    "no number, no name and no advice about treatment. Keep the headings, each on its own line, as they are."
)
# Wordings that tell somebody what to do.  A false alarm costs nothing: the template text is shown instead.
_ADVICE = re.compile(
    r"\b(you (should|must|need to|ought to|have to)|we (recommend|advise|suggest)|(is|are) (recommended|advised)|"
    r"(start|stop|take|try|consider|avoid|ask for) (?:\w+ ){0,2}"
    r"(chemotherapy|radiotherapy|radiation|surgery|treatment|drugs?|medicines?|doses?|pills?|operation))\b",
    re.IGNORECASE,
)


class LanguageModelSettings(Record):
    """Where the model is."""

    address: str
    """Base of the interface, such as ``http://localhost:8000/v1``; ``/chat/completions`` is added."""
    model: str
    """Name of the model there."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds."""

    @field_validator("address")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc:
            raise ValueError(f"the address is {value!r}, expected http://... or https://...")
        return value.rstrip("/")


def reword(
    record: PatientRecord, plain: PlainText, settings: LanguageModelSettings, *, key: str | None = None
) -> PlainText:
    """Ask for another wording and take it if it passes the checks.

    Parameters
    ----------
    record
        The patient, whose id must not occur in what is sent.
    plain
        The page from the templates.
    settings
        Where the model is.
    key
        Sent as bearer token where given; never stored.

    Returns
    -------
    PlainText
        The new wording, or ``plain`` with a note that says why not.
    """
    sent = plain.text()
    if record.patient_id in sent:
        return _kept(plain, "the text held the patient's id and was not sent")
    body = {
        "model": settings.model,
        "temperature": 0,
        "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": sent}],
    }
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(  # noqa: S310  (the settings allow http and https only)
        f"{settings.address}/chat/completions", data=json.dumps(body).encode(), headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=settings.timeout) as answer:  # noqa: S310
            said = json.load(answer)["choices"][0]["message"]["content"]
    except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        return _kept(plain, f"the language model did not answer ({type(error).__name__})")
    if not isinstance(said, str) or not said.strip():
        return _kept(plain, "the language model answered nothing")
    found = objections(said, plain)
    if found:
        return _kept(plain, f"the language model's text was not taken: {'; '.join(found)}")
    return plain.model_copy(
        update={
            "sections": _sections(said, plain.sections),
            "readability": readability(said),
            "source": settings.model,
        }
    )


def objections(text: str, plain: PlainText) -> tuple[str, ...]:
    """Return why a text must not be shown, nothing where it may.

    Parameters
    ----------
    text
        Proposed wording.
    plain
        The page from the templates; its facts are all the numbers that may be said.
    """
    found = []
    lacking = untraced_numbers(text, plain.facts)
    if lacking:
        found.append(f"numbers that the record lacks ({', '.join(sorted(lacking))})")
    advice = _ADVICE.search(text)
    if advice:
        found.append(f"advice on treatment ('{advice.group(0)}')")
    if len(text) > 2 * len(plain.text()):
        found.append("more than twice as long as what was sent")
    return tuple(found)


def _kept(plain: PlainText, why: str) -> PlainText:
    return plain.model_copy(update={"notes": (*plain.notes, why)})


def _sections(text: str, before: Mapping[str, tuple[Sentence, ...]]) -> dict[str, tuple[Sentence, ...]]:
    """Put the new sentences under the old headings; without headings, all under the first."""
    sections: dict[str, list[Sentence]] = {}
    heading = next(iter(before))
    for line in text.splitlines():
        plain_line = line.strip().strip("#*: ").strip()
        if plain_line in before:
            heading = plain_line
            continue
        sections.setdefault(heading, []).extend(Sentence(text=s) for s in as_sentences(line))
    return {h: tuple(s) for h, s in sections.items() if s}
