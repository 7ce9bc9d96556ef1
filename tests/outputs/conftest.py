"""A card, results and a constructed slide that the tests of this folder share."""

from html.parser import HTMLParser

import numpy as np
import pytest

from pathology.bundle.card import Abstention, Card, Metric, Normalisation, TrainingData
from pathology.findings.slide_result import ClassFinding, SlideResult

CLASSES = ("non-tumour", "non-viable tumour", "viable tumour")


def make_card(classes=CLASSES, **changes):
    fields = {
        "name": "test-model",
        "version": "1.2.3",
        "title": "A model for tests",
        "architecture": "densenet121",
        "parameters": 1000,
        "classes": classes,
        "mpp": 1.0,
        "patch": 64,
        "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        "weights_sha256": "0123456789abcdef" * 4,
        "initialisation": "random",
        "training_data": (
            TrainingData(name="Tiles & crops", source="A 2020", licence="CC BY 3.0", images=45, used_for="training"),
        ),
        "split": "by patient",
        "metrics": (
            Metric(
                metric="balanced accuracy",
                value=0.71,
                interval=(0.58, 0.83),
                method="bootstrap",
                n=45,
                unit="tiles",
                data="tiles, leave one case out",
            ),
            Metric(
                metric="AUC", value=None, interval=None, method="none", n=3, unit="cases", data="cases", note="too few"
            ),
        ),
        "abstention": Abstention(method="by hand", min_probability=0.5),
        "intended_use": "Research on tumour viability.",
        "limits": ("Three cases only.", "One scanner."),
        "licence": "CC BY 3.0",
    }
    return Card(**{**fields, **changes})


def make_result(classes=CLASSES, **changes):
    share = 1 / max(1, len(classes))
    fields = {
        "slide_id": "slide one",
        "path": "slides/slide one.svs",
        "status": "scored",
        "model": "test-model 1.2.3",
        "model_sha256": "0123456789abcdef" * 4,
        "prediction": classes[-1] if classes and changes.get("status", "scored") == "scored" else None,
        "most_probable_class": classes[-1] if classes else None,
        "classes": tuple(
            ClassFinding(name=name, colour="#000000", probability=share, share=share, area_mm2=1.5) for name in classes
        ),
        "patches": 12,
        "tissue_mm2": 4.5,
        "seconds": 3.2,
        "reader": "tiff",
        "mpp": 0.5,
        "mpp_source": "file",
        "width": 1000,
        "height": 800,
    }
    return SlideResult(**{**fields, **changes})


class _Page(HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles; unbalanced tags are an error."""

    VOID = frozenset({"meta", "img", "br", "link", "rect", "stop", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    def count(self, tag):
        return sum(1 for name, _ in self.tags if name == tag)


@pytest.fixture
def card():
    return make_card()


@pytest.fixture
def result():
    return make_result()


@pytest.fixture
def make():
    """The builders themselves, for tests that vary fields."""
    from types import SimpleNamespace

    return SimpleNamespace(card=make_card, result=make_result, page=_Page)


@pytest.fixture
def noise():
    """An RGB picture without two equal neighbours, so that every painted pixel shows."""
    return np.random.default_rng(0).integers(120, 255, (200, 250, 3)).astype(np.uint8)
