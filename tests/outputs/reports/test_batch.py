"""The batch report: counts, rows, links that lead somewhere, and no request to anywhere."""

import base64
import hashlib
import io
import os
import re
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from pathology.errors import OutputError
from pathology.outputs.reports import batch as index
from pathology.outputs.reports.batch import IndexEntry, batch_report, preview, write_batch_report

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png onerror=alert(1)>"
ODD = ["a b & c", "Präparat 🧬 #2?x=1", "50%25", "javascript:alert(1)", "a:b\\c", HOSTILE.replace("/", "_")]


@pytest.fixture
def entries(make, noise):
    small = preview(noise)
    return [
        IndexEntry(make.result(patient_id="P1"), "slide one", small),
        IndexEntry(
            make.result(
                slide_id="two", patient_id="P1", status="abstained", abstained_because="0.4 < 0.5", warnings=("w",)
            ),
            "two",
            small,
        ),
        IndexEntry(
            make.result(
                slide_id="three",
                status="failed",
                classes=(),
                prediction=None,
                patches=0,
                tissue_mm2=None,
                seconds=None,
                error="The file is empty.",
            ),
            "three",
        ),
        IndexEntry(make.result(slide_id="four", status="failed", classes=(), patches=0, error="No scale.")),
    ]


def test_counts_and_rows(make, card, entries):
    page = make.page(batch_report(entries, card, made=datetime(2026, 3, 4, 10, 5, tzinfo=UTC)))
    for words in (
        "4 slides",
        "1 scored",
        "1 abstained",
        "2 failed",
        "1 patient",
        "9.00 mm² tissue",
        "24 patches",
        "viable tumour: 1",
        "non-tumour: 0",
        "The file is empty.",
        "No scale.",
        "No prediction 0.4 < 0.5.",
        "1 warning",
        "Research use only",
        "Three cases only.",
        "04 March 2026",
    ):
        assert words in page.text, words
    assert page.count("tr") == 1 + len(entries)
    assert "None" not in page.text
    assert "nan" not in page.text.lower().split()
    bars = [a["width"] for tag, a in page.tags if tag == "rect" and a.get("width") == "33.33"]
    assert len(bars) == 6


@pytest.mark.parametrize("name", ODD)
def test_links_lead_to_the_reports_of_oddly_named_slides(make, card, noise, tmp_path, name):
    entry = IndexEntry(make.result(slide_id=name), name, preview(noise))
    path = tmp_path / "index.html"
    write_batch_report(path, [entry], card)
    links = [link for link in make.page(path.read_text(encoding="utf-8")).attributes("href") if "slides" in link]
    assert len(links) == 2
    for link, file in zip(links, ("overlay.png", "report.html"), strict=True):
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert parts.path.startswith("./slides/")
        assert (tmp_path / unquote(parts.path)) == tmp_path / "slides" / name / file


@pytest.mark.skipif(os.name != "posix", reason="names of arbitrary bytes are POSIX")
def test_a_link_keeps_the_bytes_of_a_foreign_encoding(make, card):
    name = os.fsdecode(b"Pr\xe4parat")
    page = make.page(batch_report([IndexEntry(make.result(slide_id=name), name)], card))
    assert "./slides/Pr%E4parat/report.html" in page.attributes("href")
    assert "Pr\\udce4parat" in page.text


def test_nothing_is_requested_and_the_only_script_is_ours(make, entries):
    card = make.card(classes=(HOSTILE, "b"), title=HOSTILE, intended_use=HOSTILE, limits=(HOSTILE,))
    hostile = make.result(
        classes=card.classes, slide_id=HOSTILE, patient_id=HOSTILE, prediction=HOSTILE, abstained_because=HOSTILE
    )
    failed = make.result(slide_id=HOSTILE, status="failed", classes=(), error=HOSTILE)
    rows = [IndexEntry(hostile, "x", entries[0].preview), IndexEntry(failed, HOSTILE)]
    text = batch_report(rows, card)
    page = make.page(text)
    assert HOSTILE in page.text
    assert page.count("script") == 1
    assert page.count("img") == 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.attributes("src"))
    assert all(link.startswith("./") for link in page.attributes("href"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_many_classes_show_the_most_probable(make):
    card = make.card(classes=tuple(f"class {i}" for i in range(12)))
    result = make.result(classes=card.classes)
    ranks = [0.01, 0.02, 0.3, 0.03, 0.04, 0.2, 0.05, 0.15, 0.06, 0.1, 0.02, 0.02]
    classes = tuple(f.model_copy(update={"probability": p}) for f, p in zip(result.classes, ranks, strict=True))
    entry = IndexEntry(result.model_copy(update={"classes": classes, "prediction": "class 2"}))
    page = make.page(batch_report([entry], card))
    shown = [page.texts[i] for i, text in enumerate(page.texts) if re.fullmatch(r"class \d+", text)]
    assert shown == ["class 2", "class 2", "class 5", "class 7", "class 9"]  # the prediction, then its bars
    assert "and 8 less probable classes" in page.text


def test_previews_are_small_and_left_out_when_they_are_too_many(make, card, entries, noise, monkeypatch):
    with Image.open(io.BytesIO(preview(np.tile(noise, (5, 5, 1))))) as image:
        assert image.size == (160, 128)
    assert make.page(batch_report(entries, card)).count("img") == 2
    monkeypatch.setattr(index, "EMBEDDED_PREVIEWS", len(entries[0].preview))
    assert make.page(batch_report(entries, card)).count("img") == 0


def test_sort_keys_are_numbers_or_text(make, card, entries):
    page = make.page(batch_report(entries, card))
    cells = [attributes["data-sort"] for tag, attributes in page.tags if tag == "td" and "data-sort" in attributes]
    assert cells[:7] == ["slide one", "viable tumour", str(1 / 3), "4.5", "12", "3.2", "scored"]
    # A failed slide's reason spans prediction and probabilities.
    assert cells[14:20] == ["three", "", "-1", "0", "-1", "failed"]


def test_an_empty_batch_and_an_unwritable_place(make, card, tmp_path):
    assert "0 slides" in make.page(batch_report([], card)).text
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_batch_report(tmp_path / "file" / "index.html", [], card)


def test_a_page_of_many_slides_turns_and_sorts(make, card, browser, tmp_path):
    entries = [IndexEntry(make.result(slide_id=f"s{n:03} <b>&"), f"s{n:03}") for n in range(250)]
    write_batch_report(tmp_path / "index.html", entries, card, made=datetime(2026, 3, 4, tzinfo=UTC))
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())

    def shown():
        rows = page.locator("#slides tbody tr .name").all_inner_texts()
        return len(rows), rows[0][:9], page.locator(".pager").inner_text()

    assert shown() == (100, "s000 <b>&", "Previous Slides 1 to 100 of 250 Next")
    for _ in range(2):
        page.get_by_role("button", name="Next").click()
    assert shown() == (50, "s200 <b>&", "Previous Slides 201 to 250 of 250 Next")
    assert page.get_by_role("button", name="Next").is_disabled()
    for _ in range(2):
        page.locator("#slides th button").first.click()
    assert shown() == (100, "s249 <b>&", "Previous Slides 1 to 100 of 250 Next")
    page.close()
    assert complaints == []
