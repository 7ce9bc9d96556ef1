"""Plain-language patient summary from templates; every number is traced to its field in the record.

It gives no treatment advice and states nothing that is not in the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import Field

from pathology.patient.death import field_of_death
from pathology.patient.readability import Readability, readability
from pathology.patient.record import PatientRecord
from pathology.settings import Record

__all__ = ["ABOUT", "Fact", "PatientSummary", "Sentence", "numbers_in", "summarise_record", "untraced_numbers"]


ABOUT = "About this page"
"""Heading of the fixed section: what the page is and is not."""


class Fact(Record):
    """A value of the record cited in the text."""

    number: int
    """Number in the list of sources, from 1."""
    path: str
    """Field of the record, such as ``clinical.size_cm``."""
    value: str
    """As written in the text."""


class Sentence(Record):
    """A sentence and the facts it cites."""

    text: str
    facts: tuple[int, ...] = ()


class PatientSummary(Record):
    """Plain-language summary for one patient."""

    sections: dict[str, tuple[Sentence, ...]]
    """Sentences by heading."""
    facts: tuple[Fact, ...]
    readability: Readability
    source: str = "templates"
    """``templates``, or the language model that reworded some of the sentences."""
    notes: tuple[str, ...] = Field(default=())
    """How many sentences were reworded, and why others were not."""

    def text(self) -> str:
        """Return headings and sentences, one paragraph per section."""
        return "\n".join(f"{heading}\n{' '.join(s.text for s in body)}" for heading, body in self.sections.items())


# Short lay explanations of the tumour types that the shipped models distinguish.
_EXPLAINED = {
    "LMS": ("leiomyosarcoma", "a cancer that starts in smooth muscle, the muscle you do not control"),
    "DDLPS": ("dedifferentiated liposarcoma", "a cancer that starts in fat and now looks less like fat"),
    "MFS": ("myxofibrosarcoma", "a cancer of the body's supporting tissue, with a jelly-like part"),
    "SS": ("synovial sarcoma", "a cancer that often grows near joints"),
    "UPS": ("undifferentiated pleomorphic sarcoma", "a cancer whose cells no longer look like any one normal tissue"),
    "ERMS": ("embryonal rhabdomyosarcoma", "a cancer whose cells look like young muscle cells"),
    "ARMS": ("alveolar rhabdomyosarcoma", "a cancer whose cells look like young muscle cells and grow in small nests"),
    "MPNST": ("malignant peripheral nerve sheath tumour", "a cancer that starts in the lining of a nerve"),
}
_GROUPS = {"low": "lower", "medium": "middle", "high": "higher"}


class _Notes:
    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def of(self, path: str, value: str) -> int:
        self.facts.append(Fact(number=len(self.facts) + 1, path=path, value=value))
        return len(self.facts)


def summarise_record(record: PatientRecord) -> PatientSummary | None:
    r"""Write the plain-language summary of one patient.

    Parameters
    ----------
    record
        The patient.

    Returns
    -------
    PatientSummary or None
        Lists every number as a fact.  ``None`` for a patient who has died by any field of the record: such a letter
        helps nobody and hurts the relatives who find it.

    Examples
    --------
    >>> from pathology.patient import build_records, read_clinical
    >>> table = folder / "clinical.csv"
    >>> _ = table.write_text("patient_id,age,sex\nP1,54,female\n")
    >>> records, _ = build_records(clinical=read_clinical(table))
    >>> list(summarise_record(records[0]).sections)
    ['About this page', 'What your records say']
    """
    if record.died or field_of_death(record.clinical):
        return None
    notes = _Notes()
    sections: dict[str, tuple[Sentence, ...]] = {
        ABOUT: (
            Sentence(text="This page explains in plain words what a research record says about you."),
            Sentence(text="Some of it comes from computer programs, which can be wrong."),
            Sentence(text="It is for research only."),
            Sentence(text="It gives no advice on treatment."),
            Sentence(text="Please talk about it with your doctors, who know far more about you."),
        )
    }
    for heading, sentences in (
        ("What your records say", _clinic(record, notes)),
        ("Your tissue under the microscope", _tissue(record, notes)),
        ("Your scans", _scans(record, notes)),
        ("What studies of other patients show", _outlook(record, notes)),
    ):
        if sentences:
            sections[heading] = tuple(sentences)
    body = "\n".join(f"{h}\n{' '.join(s.text for s in b)}" for h, b in sections.items())
    return PatientSummary(sections=sections, facts=tuple(notes.facts), readability=readability(body))


def numbers_in(text: str) -> set[str]:
    """Return the numbers in a text, normalised: no thousands separators or trailing zeros, number words as digits."""
    found = set()
    for token in re.findall(r"\d+(?:[.,]\d+)*", text):
        plain = (
            token.replace(",", "") if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", token) else token.replace(",", ".")
        )
        found.add(f"{float(plain):g}" if plain.count(".") <= 1 else plain)
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _NUMBER_WORDS:
            found.add(str(_NUMBER_WORDS[word]))
    return found


def untraced_numbers(text: str, facts: Iterable[Fact]) -> set[str]:
    """Return the numbers in a text that are not in any fact."""
    return numbers_in(text) - {n for fact in facts for n in numbers_in(fact.value)}


# "One" is excluded: it is far more often a pronoun than a number.
_NUMBER_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18,
    "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90, "hundred": 100, "thousand": 1000, "half": 0.5, "third": 3, "quarter": 4, "dozen": 12, "twice": 2,
}  # fmt: skip


def _clinic(record: PatientRecord, notes: _Notes) -> list[Sentence]:
    known = record.clinical
    out = []
    code = str(known.get("histotype", ""))
    if "histology" in known:
        fact = notes.of("clinical.histology", str(known["histology"]))
        out.append(Sentence(text=f"The diagnosis in your record is: {known['histology']}.", facts=(fact,)))
        if code in _EXPLAINED:
            out.append(Sentence(text=f"That is {_EXPLAINED[code][1]}.", facts=(notes.of("clinical.histotype", code),)))
    if "age_years" in known:
        value = f"{known['age_years']:.0f}"
        fact = notes.of("clinical.age_years", value)
        out.append(Sentence(text=f"You were {value} years old when it was found.", facts=(fact,)))
    if "site" in known:
        fact = notes.of("clinical.site", str(known["site"]))
        out.append(Sentence(text=f"The tumour site in your record is: {known['site']}.", facts=(fact,)))
    if "size_cm" in known:
        value = f"{known['size_cm']:g}"
        fact = notes.of("clinical.size_cm", value)
        out.append(Sentence(text=f"The tumour was {value} cm across at its widest.", facts=(fact,)))
    if "grade" in known:
        fact = notes.of("clinical.grade", str(known["grade"]))
        out.append(Sentence(text=f"Its grade is {known['grade']}.", facts=(fact,)))
        out.append(Sentence(text="The grade says how fast the cells seem to grow."))
    return out


def _tissue(record: PatientRecord, notes: _Notes) -> list[Sentence]:
    scored = [(i, s) for i, s in enumerate(record.slides) if s.status != "failed"]
    if not scored:
        return []
    count = notes.of("slides (scored)", str(len(scored)))
    noun = "slide" if len(scored) == 1 else "slides"
    out = [Sentence(text=f"A computer program looked at {len(scored)} {noun} of your tissue.", facts=(count,))]
    for i, slide in scored:
        if slide.abstained:
            if slide.out_of_domain:
                out.append(Sentence(text="One slide was unlike those the program learnt from, so it gave no answer."))
            else:
                out.append(Sentence(text="For one slide the program was not sure enough, so it gave no answer."))
            continue
        if "mitoses.total" in slide.findings:
            value = f"{slide.findings['mitoses.total']:.0f}"
            fact = notes.of(f"slides[{i}].findings.mitoses.total", value)
            out.append(Sentence(text=f"It counted {value} cells that seem to be dividing.", facts=(fact,)))
        if slide.prediction is None:
            continue
        name = _EXPLAINED.get(slide.prediction, (slide.prediction, ""))[0]
        fact = notes.of(f"slides[{i}].prediction", slide.prediction)
        out.append(Sentence(text=f"It found that the tissue looks most like {name}.", facts=(fact,)))
        if slide.prediction in slide.probabilities:
            value = f"{100 * slide.probabilities[slide.prediction]:.0f}"
            fact = notes.of(f"slides[{i}].probabilities.{slide.prediction} (of 100)", f"{value} of 100")
            out.append(Sentence(text=f"Its score for this was {value} out of 100.", facts=(fact,)))
    out += [Sentence(text="This is not a diagnosis."), Sentence(text="Only your doctors can make one.")]
    return out


def _scans(record: PatientRecord, notes: _Notes) -> list[Sentence]:
    n = sum(study.status == "done" for study in record.imaging)
    if n == 0:
        return []
    fact = notes.of("imaging (done)", str(n))
    noun = "scan was" if n == 1 else "scans were"
    return [
        Sentence(text=f"{n} {noun} measured by a computer program.", facts=(fact,)),
        Sentence(text="The results are numbers for research, such as how even the tumour looks."),
    ]


def _outlook(record: PatientRecord, notes: _Notes) -> list[Sentence]:
    out: list[Sentence] = []
    for i, prediction in enumerate(record.survival):
        if prediction.outcome != "os":
            continue
        group = notes.of(f"survival[{i}].group", prediction.group)
        word = _GROUPS.get(prediction.group, prediction.group)
        out.append(
            Sentence(
                text=f"A program that learnt from other patients' records places you in its {word} risk group.",
                facts=(group,),
            )
        )
        if prediction.imputed:
            fact = notes.of(f"survival[{i}].imputed", ", ".join(prediction.imputed))
            out.append(Sentence(text="Some of your details were missing.", facts=(fact,)))
            out.append(Sentence(text="It used typical values from other patients instead."))
        for time, probability in prediction.survival.items():
            value = f"{100 * probability:.0f}"
            fact = notes.of(f"survival[{i}].survival.{time} (of 100)", f"{value} of 100, {time}")
            out.append(
                Sentence(
                    text=f"Of 100 people with records like yours, about {value} were alive after {time}.", facts=(fact,)
                )
            )
        out.append(Sentence(text="This describes a group of patients."))
        out.append(Sentence(text="Nobody can tell what will happen to you."))
    return out
