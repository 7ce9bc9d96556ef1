"""The page about bundles speaks of the schema as it is."""

import re
from pathlib import Path

from pathology.bundle.card import Abstention, Card, Metric, TrainingData

PAGE = (Path(__file__).parents[2] / "docs" / "bundles.md").read_text(encoding="utf-8")


def test_it_describes_every_field_and_no_other():
    described = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert described == list(Card.model_fields)


def test_it_names_the_fields_of_the_parts():
    for part in (Abstention, Metric, TrainingData):
        for name in part.model_fields:
            assert f"`{name}`" in PAGE
