"""PDF reports: whole, readable, with the notice on every page, whatever the names."""

import shutil
import subprocess

import pytest

from pathology.errors import OutputError
from pathology.findings.reviewed_count import count_reviewed
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.outputs.export.exports import export_batch, export_slide
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results

pytest.importorskip("reportlab")
pypdf = pytest.importorskip("pypdf")
pdf = pytest.importorskip("pathology.outputs.reports.pdf")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("pdf") / "out"
    write_constructed_results(out, slide_ids=("square",), failed=("bad",), detections=60, dimensions=(1500, 1200))
    return open_results(out)


def text(path):
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(path).pages]


def test_a_slides_report(results, tmp_path):
    slide = results["square"]
    path = export_slide(slide, "pdf", tmp_path)
    pages = text(path)
    said = " ".join(pages)
    assert all(RESEARCH_USE_ONLY in page for page in pages)
    assert "Prediction: stroma" in said
    for finding in slide.record.classes:
        assert finding.name in said
    assert "Mitoses" in said
    count = slide.count()
    assert f"{count.total} of 60 detections" in said
    assert f"{count.hotspot.per_mm2:.2f} /mm²" in said
    assert "95 % CI" in said
    assert "Not calibrated" in said or "not calibrated" in said
    assert "It knows nothing." in said
    assert sum(len(page.images) for page in pypdf.PdfReader(path).pages) == 2


def test_it_is_drawn_by_a_foreign_program(results, tmp_path):
    if shutil.which("pdftoppm") is None:
        pytest.skip("needs pdftoppm (Debian: poppler-utils)")
    from PIL import Image

    path = export_slide(results["square"], "pdf", tmp_path)
    done = subprocess.run(
        ["pdftoppm", "-r", "50", "-png", str(path), str(tmp_path / "page")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    first = min(tmp_path.glob("page-*.png"))
    with Image.open(first) as page:
        assert page.size == pytest.approx((413, 585), abs=2)  # A4
        assert len(page.convert("RGB").getcolors(2**24)) > 200


def test_fonts_are_inside(results, tmp_path):
    fonts = {}
    for page in pypdf.PdfReader(export_slide(results["square"], "pdf", tmp_path)).pages:
        for font in page["/Resources"]["/Font"].values():
            fonts[font["/BaseFont"]] = font.get("/FontDescriptor", {})
    used = {name: descriptor for name, descriptor in fonts.items() if "DejaVu" in name}
    assert used
    assert all("/FontFile2" in descriptor.get_object() for descriptor in used.values())


def test_a_failed_slide_has_a_report(results, tmp_path):
    said = " ".join(text(export_slide(results["bad"], "pdf", tmp_path)))
    assert "This slide was not scored" in said
    assert "3 of its 12 stored tiles" in said


def test_a_batch(results, tmp_path):
    said = " ".join(text(export_batch(results, "batch-pdf", tmp_path)))
    assert "2 slides" in said
    assert "square" in said
    assert "The file is truncated" in said
    assert "Failed 1" in said


@pytest.mark.parametrize(
    "name",
    ["<b>bold</b> & </para>", "a" * 400, "µ ≥ ² 日本 🙂", "line\nbreak\x00", "&amp;#x41;", "../../etc", "%s {0} \\n"],
)
def test_no_name_breaks_it(make, tmp_path, name):
    result = make.result(slide_id=name, patient_id=name, path=name, warnings=(name,))
    pdf.write_slide_pdf(tmp_path / "a.pdf", result, make.card(limits=(name,)))
    pages = text(tmp_path / "a.pdf")
    if name.startswith("<b>"):
        assert "<b>bold</b> & </para>" in pages[0]
    failed = make.result(slide_id=name, status="failed", error=name, classes=(), prediction=None)
    pdf.write_batch_pdf(tmp_path / "b.pdf", [result, failed], make.card())
    assert text(tmp_path / "b.pdf")


def test_many_slides_and_classes_fill_pages_and_do_not_overflow(make, tmp_path):
    classes = tuple(f"class number {index} with a long name" for index in range(30))
    results = [make.result(classes=classes, slide_id=f"slide {index}") for index in range(300)]
    pdf.write_slide_pdf(tmp_path / "a.pdf", results[0], make.card(classes=classes))
    pdf.write_batch_pdf(tmp_path / "b.pdf", results, make.card(classes=classes))
    pages = text(tmp_path / "b.pdf")
    assert len(pages) > 5
    assert "slide 299" in " ".join(pages)
    assert all("Slide Patient Result" in page for page in pages[1:5]), "the head is repeated"


def test_an_abstained_slide(make, tmp_path):
    result = make.result(status="abstained", prediction=None, abstained_because="probability 0.40 is too low")
    pdf.write_slide_pdf(tmp_path / "a.pdf", result, make.card())
    said = " ".join(text(tmp_path / "a.pdf"))
    assert "No prediction: the model abstained" in said
    assert "Probability 0.40 is too low." in said


def test_an_unwritable_place_is_an_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        pdf.write_slide_pdf(tmp_path / "file" / "a.pdf", make.result(), make.card())


def test_a_detectors_slide_has_a_count_for_an_answer(results, tmp_path):
    slide = results["square"]
    count = count_reviewed(slide.detections, {}, mpp=slide.record.mpp, tissue_mm2=slide.record.tissue_mm2)
    result = slide.record.model_copy(update={"prediction": None, "classes": ()})
    pdf.write_slide_pdf(tmp_path / "a.pdf", result, slide.card, count=count)
    said = text(tmp_path / "a.pdf")[0]
    assert f"{count.total} mitoses" in said
    assert "not reviewed" in said
    assert "not known" not in said
    decided = count.model_copy(update={"accepted": 2, "rejected": 1})
    pdf.write_slide_pdf(tmp_path / "b.pdf", result, slide.card, count=decided)
    assert "2 accepted, 1 rejected" in text(tmp_path / "b.pdf")[0]
