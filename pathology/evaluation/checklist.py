"""TRIPOD+AI: what a study of a prediction model must report, filled in from what a program can know.

The items are those of Collins et al. 2024 (doi 10.1136/bmj-2023-078378), named here in short words.  An item about
the patients, the clinic or the authors stays open: a program that guesses it would help nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from pathology.reports.page import Cell, Section, Table

__all__ = ["OPEN", "TRIPOD_AI", "checklist_section"]

TRIPOD_AI: dict[str, str] = {
    "1": "title: evaluation of a prediction model, target population and outcome",
    "2": "abstract, by TRIPOD+AI for abstracts",
    "3a": "clinical context, rationale and existing models",
    "3b": "target population, place in the care pathway and users",
    "3c": "known health inequalities",
    "4": "objectives: development, evaluation or both",
    "5a": "sources of the data and why they represent the target population",
    "5b": "dates of accrual and end of follow-up",
    "6a": "setting, number and location of centres",
    "6b": "eligibility criteria",
    "6c": "treatments received",
    "7": "data preparation and quality checks",
    "8a": "outcome and its time horizon",
    "8b": "who assessed the outcome, with what qualification",
    "8c": "blinding of the outcome's assessment",
    "9a": "choice of predictors",
    "9b": "definition and measurement of predictors",
    "9c": "who assessed predictors that need interpretation",
    "10": "sample size",
    "11": "missing data",
    "12a": "use of the data and their partition",
    "12b": "handling of predictors",
    "12c": "type of model, building and internal validation",
    "12d": "heterogeneity between centres",
    "12e": "measures of performance and their rationale",
    "12f": "updating of the model",
    "12g": "how predictions were calculated",
    "13": "class imbalance",
    "14": "fairness",
    "15": "output of the model and thresholds",
    "16": "differences between development and evaluation data",
    "17": "ethical approval and consent",
    "18a": "funding",
    "18b": "conflicts of interest",
    "18c": "protocol",
    "18d": "registration",
    "18e": "availability of the data",
    "18f": "availability of the code",
    "19": "involvement of patients and the public",
    "20a": "flow of participants",
    "20b": "characteristics of participants",
    "20c": "comparison with the development data",
    "21": "numbers of participants and outcome events in each analysis",
    "22": "specification of the full model",
    "23a": "performance with intervals, overall and in subgroups",
    "23b": "heterogeneity of performance between centres",
    "24": "results of updating",
    "25": "interpretation, including fairness",
    "26": "limitations",
    "27a": "handling of poor or missing input when the model is used",
    "27b": "interaction and expertise required of users",
    "27c": "next steps for research",
}
"""Item number and topic."""
OPEN = "to be stated by the authors"


def checklist_section(known: Mapping[str, str]) -> Section:
    """Return the checklist as a report section.

    Parameters
    ----------
    known
        Text by item number, for the items that the data and the model answer.

    Raises
    ------
    KeyError
        If a number is not on the list.

    Examples
    --------
    >>> section = checklist_section({"12f": "The model was not updated."})
    >>> sum(row[2].value == OPEN for row in section.table.rows)
    51
    """
    unknown = sorted(set(known) - set(TRIPOD_AI))
    if unknown:
        raise KeyError(f"not an item of TRIPOD+AI: {', '.join(unknown)}")
    rows = tuple(
        (Cell(value=item), Cell(value=topic), Cell(value=known.get(item) or OPEN)) for item, topic in TRIPOD_AI.items()
    )
    answered = sum(bool(text) for text in known.values())
    return Section(
        heading="TRIPOD+AI checklist",
        text=f"{answered} of {len(TRIPOD_AI)} items are filled in from the model and the data; the rest are open.",
        table=Table(head=("Item", "Topic", "Reported"), rows=rows),
        note="Collins et al. 2024, BMJ 385:e078378.",
    )
