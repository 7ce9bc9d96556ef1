"""Optional rewording of the patient summary by a language model with an OpenAI-compatible API.  Off by default.

Only the finished sentences of the summary leave the machine; they contain no ID and no date.  The response must pass
three checks: it has no number that is missing from the record, gives no treatment advice, and is at most twice as long
as the request.  Otherwise the template text is kept, and the page says why.
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

from pathology.patient.patient_summary import PatientSummary, Sentence, as_sentences, untraced_numbers
from pathology.patient.readability import readability
from pathology.patient.record import PatientRecord
from pathology.settings import Record

__all__ = ["LanguageModelSettings", "objections", "reword"]

_TASK = (
    "Rewrite the text below for a patient, in short, kind and plain English sentences. Keep every fact. Add no fact, "
    "no number, no name and no advice about treatment. Keep the headings, each on its own line, as they are."
)
# Phrases that give advice.  A false positive costs nothing: the template text is shown instead.
_ADVICE = re.compile(
    r"\b(you (should|must|need to|ought to|have to)|we (recommend|advise|suggest)|(is|are) (recommended|advised)|"
    r"(start|stop|take|try|consider|avoid|ask for) (?:\w+ ){0,2}"
    r"(chemotherapy|radiotherapy|radiation|surgery|treatment|drugs?|medicines?|doses?|pills?|operation))\b",
    re.IGNORECASE,
)


class LanguageModelSettings(Record):
    """Address and name of the language model."""

    address: str
    """Base URL of the API, such as ``http://localhost:8000/v1``; ``/chat/completions`` is appended."""
    model: str
    """Model name at that address."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds."""

    @field_validator("address")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc:
            raise ValueError(f"the address is {value!r}, expected http://... or https://...")
        return value.rstrip("/")


def reword(
    record: PatientRecord, summary: PatientSummary, settings: LanguageModelSettings, *, key: str | None = None
) -> PatientSummary:
    """Request a rewording and use it if it passes the checks.

    Parameters
    ----------
    record
        The patient; the text sent must not contain the patient ID.
    summary
        Summary from the templates.
    settings
        Address and name of the model.
    key
        Bearer token, if any; never stored.

    Returns
    -------
    PatientSummary
        The reworded summary, or ``summary`` with a note on why it was rejected.
    """
    sent = summary.text()
    if record.patient_id in sent:
        return _kept(summary, "the text contained the patient ID and was not sent")
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
            reply = json.load(answer)["choices"][0]["message"]["content"]
    except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        return _kept(summary, f"the language model did not answer ({type(error).__name__})")
    if not isinstance(reply, str) or not reply.strip():
        return _kept(summary, "the language model returned no text")
    found = objections(reply, summary)
    if found:
        return _kept(summary, f"the language model's text was rejected: {'; '.join(found)}")
    return summary.model_copy(
        update={
            "sections": _sections(reply, summary.sections),
            "readability": readability(reply),
            "source": settings.model,
        }
    )


def objections(text: str, summary: PatientSummary) -> tuple[str, ...]:
    """Return the reasons to reject a text; empty if it passes.

    Parameters
    ----------
    text
        Reworded text.
    summary
        Summary from the templates; its facts are the permitted numbers.
    """
    found = []
    lacking = untraced_numbers(text, summary.facts)
    if lacking:
        found.append(f"numbers not in the record ({', '.join(sorted(lacking))})")
    advice = _ADVICE.search(text)
    if advice:
        found.append(f"treatment advice ('{advice.group(0)}')")
    if len(text) > 2 * len(summary.text()):
        found.append("more than twice as long as the request")
    return tuple(found)


def _kept(summary: PatientSummary, why: str) -> PatientSummary:
    return summary.model_copy(update={"notes": (*summary.notes, why)})


def _sections(text: str, before: Mapping[str, tuple[Sentence, ...]]) -> dict[str, tuple[Sentence, ...]]:
    """Assign the new sentences to the original headings; without headings, all to the first."""
    sections: dict[str, list[Sentence]] = {}
    heading = next(iter(before))
    for line in text.splitlines():
        plain_line = line.strip().strip("#*: ").strip()
        if plain_line in before:
            heading = plain_line
            continue
        sections.setdefault(heading, []).extend(Sentence(text=s) for s in as_sentences(line))
    return {h: tuple(s) for h, s in sections.items() if s}
