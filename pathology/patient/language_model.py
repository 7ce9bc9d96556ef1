"""Optional rewording of the patient summary by a language model with an OpenAI-compatible API.  Off by default.

One finished sentence is sent at a time, without ID and date; the fixed section that says what the page is stays as it
is.  An answer replaces its sentence only if :func:`pathology.patient.faithful.objection` finds nothing: the same facts,
in words of that sentence or stated synonyms.  Otherwise the template's sentence is shown.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pathology.patient.faithful import SYNONYMS, objection
from pathology.patient.patient_summary import ABOUT, PatientSummary, Sentence
from pathology.patient.readability import readability
from pathology.patient.record import PatientRecord
from pathology.settings import Record

__all__ = ["LanguageModelSettings", "reword"]

_TASK = (
    "Reword the sentence below for a patient, as one short, kind and plain English sentence that ends with a full "
    "stop. Keep every fact, number and negation. Add nothing. Use only the words of the sentence and these synonyms: "
    + "; ".join(" = ".join(group) for group in SYNONYMS)
    + ". Answer with the sentence alone."
)
_LONGEST_ANSWER = 65_536
"""Bytes of one answer that are read."""


class LanguageModelSettings(Record):
    """Address and name of the language model."""

    address: str
    """Base URL of the API, such as ``http://localhost:8000/v1``; ``/chat/completions`` is appended."""
    model: str
    """Model name at that address."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds per sentence; the first request that fails is the last."""

    @field_validator("address")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc:
            raise ValueError(f"the address is {value!r}, expected http://... or https://...")
        return value.rstrip("/")


def reword(
    record: PatientRecord, summary: PatientSummary, settings: LanguageModelSettings, *, key: str | None = None
) -> PatientSummary:
    """Have the sentences reworded one by one and use those that pass the check.

    Parameters
    ----------
    record
        The patient; a sentence that contains the patient ID is not sent.
    summary
        Summary from the templates.
    settings
        Address and name of the model.
    key
        Bearer token, if any; never stored.

    Returns
    -------
    PatientSummary
        The summary with the sentences that passed, and a note on how many did and why others did not.
    """
    sections = {heading: list(body) for heading, body in summary.sections.items()}
    notes: Counter[str] = Counter()
    taken, sent = 0, 0
    for body in (body for heading, body in sections.items() if heading != ABOUT):
        for i, sentence in enumerate(body):
            if record.patient_id in sentence.text:
                notes["a sentence contained the patient ID and was not sent"] += 1
                continue
            try:
                answer = _ask(sentence.text, settings, key)
            except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
                notes[f"the language model did not answer ({type(error).__name__})"] += 1
                return _result(summary, sections, settings, taken, sent + 1, notes)
            sent += 1
            if objection(answer, sentence.text):
                # The reason may quote an invention, which must not reach the page.
                notes["a rewording that did not say the same was rejected"] += 1
                continue
            taken += 1
            body[i] = Sentence(text=answer.strip(), facts=sentence.facts)
    return _result(summary, sections, settings, taken, sent, notes)


def _ask(sentence: str, settings: LanguageModelSettings, key: str | None) -> str:
    """Send one sentence and return the answer.

    Raises
    ------
    ValueError
        If the answer is no text; network and format errors as the standard library raises them.
    """
    body = {
        "model": settings.model,
        "temperature": 0,
        "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": sentence}],
    }
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(  # noqa: S310  (the settings allow http and https only)
        f"{settings.address}/chat/completions", data=json.dumps(body).encode(), headers=headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=settings.timeout) as answer:  # noqa: S310
        content = json.loads(answer.read(_LONGEST_ANSWER))["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise ValueError("the answer is no text")
    return content


def _result(
    summary: PatientSummary,
    sections: dict[str, list[Sentence]],
    settings: LanguageModelSettings,
    taken: int,
    sent: int,
    notes: Counter[str],
) -> PatientSummary:
    finished = summary.model_copy(update={"sections": {heading: tuple(body) for heading, body in sections.items()}})
    said = [f"{taken} of {sent} sentences were reworded"] if sent else []
    said += [f"{n} times: {why}" if n > 1 else why for why, n in notes.most_common(3)]
    return finished.model_copy(
        update={
            "readability": readability(finished.text()),
            "source": settings.model if taken else summary.source,
            "notes": (*summary.notes, *said),
        }
    )
