"""The slide report: the right words and numbers, whole in itself, and safe from hostile names."""

import base64
import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from pathology.bundle.card import Detection, Metric
from pathology.errors import OutputError
from pathology.findings.mitotic_count import SlideMitoses, count_mitoses
from pathology.outputs.figures.heatmap import build_heatmap
from pathology.outputs.figures.thumbnail import SlidePicture
from pathology.outputs.reports.slide import report_pictures, slide_report, write_slide_report
from pathology.settings import ScoreSettings

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png onerror=alert(1)>{{ 7 * 7 }}&amp;"


@pytest.fixture
def pictures(card, result, noise):
    heatmap = build_heatmap(
        np.array([[0, 0], [400, 0]], np.int32),
        np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]], np.float32),
        np.ones(2, np.float32),
        classes=card.classes,
        extent=400,
        stride=400,
    )
    return report_pictures(result, card, SlidePicture(noise, (4.0, 4.0)), heatmap, np.ones((8, 10), bool))


def test_pictures_show_the_same_slide_twice(pictures, noise):
    assert np.array_equal(pictures.plain, noise)
    assert (pictures.painted != noise).any(axis=2).sum() == 200 * 100
    assert pictures.bar.label == "100 µm"  # 250 px at 2 µm: at most 125 µm
    assert pictures.bar.pixels == pytest.approx(50)


def test_a_scored_slide(make, card, result, pictures):
    page = make.page(slide_report(result, card, pictures, made=datetime(2026, 3, 4, 10, 5, tzinfo=UTC)))
    for words in (
        "slide one",
        "Prediction viable tumour",
        "Research use only. Not for diagnosis or treatment.",
        "33 %",
        "1.50 mm²",
        "4.50 mm²",
        "test-model 1.2.3",
        "SHA-256 0123456789ab…",
        "0.5 µm/px, from the slide file",
        "64 × 64 px at 1 µm/px",
        "500 × 400 µm",
        "Reader tiff",
        "3.2 s",
        "Three cases only.",
        "Tiles & crops",
        "CC BY 3.0",
        "0.71 (95% CI 0.58 to 0.83)",
        "45 tiles",
        "not estimated",
        "too few",
        "not calibrated",
        "04 March 2026, 10:05 UTC",
        "100 µm",
    ):
        assert words in page.text, words
    assert page.text.count("Research use only") >= 2
    assert page.count("h1") == 1
    assert ("html", {"lang": "en-GB"}) in page.tags


def test_pictures_are_inside_the_page_and_described(make, card, result, pictures):
    page = make.page(slide_report(result, card, pictures))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for attributes, pixels in zip(images, (pictures.plain, pictures.painted), strict=True):
        assert len(attributes["alt"]) > 20
        kind, content = attributes["src"].split(",", 1)
        assert kind == "data:image/jpeg;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert shown.shape == pixels.shape
        assert (int(attributes["width"]), int(attributes["height"])) == (250, 200)
        assert np.abs(shown.astype(int) - pixels).mean() < 12  # JPEG of noise


def test_the_scale_bar_is_as_long_as_it_says(make, card, result, pictures):
    styles = [
        style for style in make.page(slide_report(result, card, pictures)).attributes("style") if "width" in style
    ]
    shares = [float(re.search(r"width: ([\d.]+)%", style)[1]) for style in styles]
    assert shares == [20.0, 20.0]  # 50 of 250 px


def assert_self_contained(page, text):
    assert "script" not in [tag for tag, _ in page.tags]
    for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
        assert all(value.startswith("data:") for value in page.attributes(name))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("status", ["scored", "failed"])
@pytest.mark.parametrize("with_pictures", [True, False])
def test_hostile_names_stay_text(make, pictures, status, with_pictures):
    classes = (HOSTILE, "b")
    card = make.card(
        classes=classes,
        title=HOSTILE,
        intended_use=HOSTILE,
        limits=(HOSTILE,),
        licence=HOSTILE,
        split=HOSTILE,
        initialisation=HOSTILE,
        reference=HOSTILE,
    )
    result = make.result(
        classes=classes,
        slide_id=HOSTILE,
        patient_id=HOSTILE,
        path=HOSTILE,
        status=status,
        prediction=HOSTILE if status == "scored" else None,
        reader=HOSTILE,
        engine=HOSTILE,
        mpp_source=HOSTILE,
        error=HOSTILE,
        abstained_because=HOSTILE,
        warnings=(HOSTILE,),
        extra={HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
    )
    text = slide_report(result, card, pictures if with_pictures else None, timing={HOSTILE: 1.0})
    page = make.page(text)
    assert_self_contained(page, text)
    assert HOSTILE in page.text
    assert "49" not in page.texts[0]


def test_an_abstained_slide_says_why_before_anything_else(make, card):
    result = make.result(status="abstained", prediction=None, abstained_because="0.40 is below 0.50")
    page = make.page(slide_report(result, card))
    assert "No prediction: the model abstained 0.40 is below 0.50" in page.text
    assert page.text.index("abstained") < page.text.index("Probability")
    assert "Prediction viable tumour" not in page.text


def test_a_failed_slide_about_which_nothing_is_known(make, card):
    result = make.result(
        status="failed",
        classes=(),
        prediction=None,
        patches=0,
        tissue_mm2=None,
        seconds=None,
        reader=None,
        mpp=None,
        mpp_source=None,
        width=None,
        height=None,
        error="The file is empty.",
    )
    text = slide_report(result, card)
    page = make.page(text)
    assert "This slide was not scored The file is empty." in page.text
    assert "None" not in page.text
    assert "nan" not in page.text
    assert page.count("img") == 0
    assert_self_contained(page, text)


def test_warnings_unreadable_tiles_and_further_findings(make, card):
    result = make.result(
        warnings=("The scale is a guess.",),
        unreadable_tiles=3,
        masked_patches=2,
        attempts=2,
        mpp_source="objective power",
        extra={
            "mitoses_per_mm2": 3.25,
            "quality": {"pen": 0.1, "folded": False, "focus": None},
            "signature": [["a", 1]],
        },
    )
    text = make.page(slide_report(result, card, timing={"finding tissue": 0.5})).text
    for words in (
        "The scale is a guess.",
        "3 stored tiles could not be decoded",
        "2 (unreadable or with artefacts)",
        "3.2 s, in 2 attempts",
        "estimated from the objective power",
        "mitoses per mm2 3.25",
        "quality: pen 0.1",
        "quality: folded no",
        "quality: focus not known",
        "– finding tissue 0.5 s",
    ):
        assert words in text, words
    assert "signature" not in text


def test_settings_are_explained(make, card):
    settings = ScoreSettings().model_dump(mode="json")
    text = make.page(slide_report(make.result(settings=settings), card)).text
    assert "tissue.mpp 8" in text
    assert "– Micrometres per pixel of the mask" in text
    assert "quality none" in text
    assert "`" not in text


@pytest.mark.parametrize("classes", [1, 12])
def test_one_class_and_many(make, pictures, classes):
    card = make.card(classes=tuple(f"class {i}" for i in range(classes)))
    page = make.page(slide_report(make.result(classes=card.classes), card, pictures))
    assert all(page.text.count(name) >= 2 for name in card.classes)
    assert ("The stronger the colour" in page.text) == (classes > 1)


def test_a_calibrated_model_is_called_so(make):
    text = make.page(slide_report(make.result(), make.card(calibration={"temperature": 1.3}))).text
    assert "are calibrated" in text
    assert "not calibrated" not in text


def test_a_count_states_false_positives_and_training_data(make):
    alarms = Metric(
        metric="false positives per mm²",
        value=5.0,
        interval=(1.0, 15.0),
        method="exact Poisson",
        n=3,
        unit="false positives",
        data="a canine field",
    )
    changes = {"task": "detection", "classes": ("mitosis",), "detection": Detection(threshold=0.5)}
    count = count_mitoses(np.array([[10.0, 10.0]]), 0.25, tissue_mm2=2.0, simulations=2)
    result = make.result(
        classes=("mitosis",),
        tissue_mm2=2.0,
        warnings=("patches were upsampled",),
        mitoses=SlideMitoses(threshold=0.5, candidates=7, **dict(count)),
    )
    text = make.page(slide_report(result, make.card(metrics=(alarms,), **changes))).text
    assert "this detector produced 5.0 false positives per mm² (95 % interval 1.0 to 15.0)" in text
    assert "expect 10 (2 to 30) false positives in the 2.00 mm² searched here, even without any mitosis" in text
    answer = text[: text.index("Grading")]
    assert (
        "Whether this slide resembles the training data was not assessed. The detector was trained on: Tiles" in answer
    )
    assert "Patches were upsampled." in answer
    without = make.page(slide_report(result, make.card(**changes))).text
    assert "this detector produced" not in without
    assert "The detector was trained on: Tiles" in without


def test_it_is_written_whole_or_not_at_all(tmp_path, card, result):
    path = tmp_path / "Präparat 🧬" / "report.html"
    write_slide_report(path, result, card)
    assert path.read_text(encoding="utf-8") == slide_report(result, card)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_slide_report(tmp_path / "file" / "report.html", result, card)


def test_a_name_in_a_foreign_encoding_can_be_reported(make, card, tmp_path):
    write_slide_report(tmp_path / "r.html", make.result(slide_id="\udcff", path="\udcff.svs", status="failed"), card)
    assert "\\udcff.svs" in (tmp_path / "r.html").read_text(encoding="utf-8")
