"""DICOM segmentations and reports: registered, valid to a foreign check, and about the slide's own identifiers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pathology.errors import SlideNotFoundError, StoreError, UsageError
from pathology.outputs.export.dicom_source import dicom_source
from pathology.outputs.export.exports import export_slide
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import SQUARE_CELLS, write_constructed_results

highdicom = pytest.importorskip("highdicom")

FORMATS = ("dicom-tissue", "dicom-regions", "dicom-probabilities", "dicom-report")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    out = write_constructed_results(
        tmp_path_factory.mktemp("dicom") / "out", detections=80, dimensions=(2000, 1600), failed=("bad",)
    )
    return open_results(out)["square"]


@pytest.fixture(scope="module")
def dicom_slide(tmp_path_factory):
    """The same, but the slide is a DICOM series with an origin and orientation of its own."""
    from dataclasses import replace

    from pathology.slide.open import open_reader
    from pathology.testing.synthetic_slides import ArrayPicture, write_dicom

    root = tmp_path_factory.mktemp("own")
    results = open_results(write_constructed_results(root / "out"))
    with open_reader(results["square"].record.path) as reader:
        pixels = reader.read(0, 0, 0, *reader.dimensions)
    folder = root / "series"
    write_dicom(folder, ArrayPicture(pixels), mpp=0.499)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        origin = pydicom.Dataset()
        origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 11.5, 33.25
        dataset.TotalPixelMatrixOriginSequence = [origin]
        dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        dataset.save_as(path)
    found = results["square"]
    return replace(found, record=found.record.model_copy(update={"path": str(folder), "reader": "dicom"}))


def place(dataset):
    """First pixel's centre in mm, spacing between columns and rows in mm, and directions of rows and columns."""
    groups = dataset.SharedFunctionalGroupsSequence[0]
    down, across = groups.PixelMeasuresSequence[0].PixelSpacing
    origin = dataset.TotalPixelMatrixOriginSequence[0]
    first = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem], float)
    directions = np.array(dataset.ImageOrientationSlide, float).reshape(2, 3)[:, :2]
    return first, float(across), float(down), directions


def extent(where):
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def level0(segmentation, cells, source):
    """Cells of a segmentation to level-0 pixels, through the slide's frame of reference."""
    first, across, down, (rows, columns) = place(segmentation)
    start, _, _, _ = place_of_slide(source)
    found = []
    for column, row in (cells[:2], cells[2:]):
        # Corners of cells lie half a cell before their centres.
        mm = first + (column - 0.5) * across * rows + (row - 0.5) * down * columns - start
        found += [mm @ rows / (0.499 / 1000) + 0.5, mm @ columns / (0.499 / 1000) + 0.5]
    return found


def place_of_slide(source):
    origin = source.dataset.TotalPixelMatrixOriginSequence[0]
    start = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem], float)
    return start, None, None, None


@pytest.mark.parametrize("kind", ["dicom-regions", "dicom-probabilities"])
@pytest.mark.parametrize("which", ["slide", "dicom_slide"])
def test_the_square_comes_back_where_it_was(request, which, kind, tmp_path):
    slide = request.getfixturevalue(which)
    made = highdicom.seg.segread(export_slide(slide, kind, tmp_path))
    matrix = made.get_total_pixel_matrix(segment_numbers=[2])[..., 0]
    cells = extent(matrix > (0 if kind == "dicom-regions" else 0.5))
    found = level0(made, cells, dicom_source(slide.record))
    # Decimal strings of DICOM hold 16 signs: some nanometres over a slide.
    assert found == pytest.approx(np.array(SQUARE_CELLS) * 64 / 0.499, abs=0.01)


def test_the_tissue_mask_comes_back_where_it_was(slide, tmp_path):
    made = highdicom.seg.segread(export_slide(slide, "dicom-tissue", tmp_path))
    matrix = made.get_total_pixel_matrix(segment_numbers=[1])[..., 0]
    np.testing.assert_array_equal(matrix > 0, slide.tissue)
    height, width = slide.tissue.shape
    found = level0(made, (0, 0, width, height), dicom_source(slide.record))
    assert found == pytest.approx([0, 0, *slide.dimensions], abs=0.01)


def test_every_frame_says_the_place_of_the_whole(dicom_slide, tmp_path):
    """Position of each frame against where its pixels lie in the matrix."""
    made = highdicom.seg.segread(export_slide(dicom_slide, "dicom-regions", tmp_path))
    first, across, down, (rows, columns) = place(made)
    for frame in made.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSlideSequence[0]
        stated = np.array([position.XOffsetInSlideCoordinateSystem, position.YOffsetInSlideCoordinateSystem], float)
        column = position.ColumnPositionInTotalImagePixelMatrix - 1
        row = position.RowPositionInTotalImagePixelMatrix - 1
        assert stated == pytest.approx(first + column * across * rows + row * down * columns, abs=1e-5)


def test_probabilities_are_kept_to_one_step(slide, tmp_path):
    made = highdicom.seg.segread(export_slide(slide, "dicom-probabilities", tmp_path))
    for number, name in enumerate(slide.heatmaps.classes, 1):
        values = made.get_total_pixel_matrix(segment_numbers=[number])[..., 0]
        np.testing.assert_allclose(values, np.nan_to_num(slide.heatmap(name)), atol=1 / 255)
        assert made.get_segment_description(number).segment_label == name


@pytest.mark.parametrize("kind", FORMATS)
def test_the_slides_own_identifiers_are_referred_to(dicom_slide, kind, tmp_path):
    source = next(
        header
        for header in (pydicom.dcmread(path) for path in sorted(Path(dicom_slide.record.path).iterdir()))
        if header.TotalPixelMatrixColumns == dicom_slide.dimensions[0]
    )
    made = pydicom.dcmread(export_slide(dicom_slide, kind, tmp_path))
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    text = str(made)
    assert source.SOPInstanceUID in text
    assert source.FrameOfReferenceUID in text or kind == "dicom-report"
    assert "research use only" in text.lower()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("which", ["slide", "dicom_slide"])
def test_dciodvfy_finds_no_error(request, which, kind, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    path = export_slide(request.getfixturevalue(which), kind, tmp_path)
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    found = done.stdout + done.stderr
    assert "Segmentation" in found or "Comprehensive3DSR" in found, "it must know what it checked"
    assert [line for line in found.splitlines() if line.startswith("Error")] == []


def numbers(dataset):
    """Numeric items of a report by the name of their group and their own."""
    found = {}
    for group in dataset.ContentSequence:
        for inner in getattr(group, "ContentSequence", []):
            name = None
            for item in getattr(inner, "ContentSequence", []):
                if item.ConceptNameCodeSequence[0].CodeValue == "112039":
                    name = item.TextValue
                if item.ValueType == "NUM":
                    value = float(item.MeasuredValueSequence[0].NumericValue)
                    found[name, item.ConceptNameCodeSequence[0].CodeMeaning] = value
    return found


def test_the_report_says_what_was_found(slide, tmp_path):
    made = pydicom.dcmread(export_slide(slide, "dicom-report", tmp_path))
    assert made.VerificationFlag == "UNVERIFIED"
    found = numbers(made)
    record = slide.record
    assert found["whole slide", "Area"] == pytest.approx(record.tissue_mm2)
    for finding in record.classes:
        assert found[finding.name, "Probability"] == pytest.approx(finding.probability)
        assert found[finding.name, "Area"] == pytest.approx(finding.area_mm2)
    total = int(slide.detections.counted().sum())
    assert found["whole slide", "Number of mitotic figures"] == total
    assert found["hotspot", "Mitotic figures per area"] == pytest.approx(
        found["hotspot", "Number of mitotic figures"] / found["hotspot", "Area"]
    )
    # The density is of the tissue in the window of 1.734 mm², which is larger than this slide.
    assert found["hotspot", "Area"] == pytest.approx(slide.count().hotspot.tissue_mm2)
    assert found["hotspot", "Area"] < record.tissue_mm2 * 1.1 < 1.734


def test_the_hotspots_border_lies_around_it(slide, tmp_path):
    from pathology.findings.reviewed_count import count_reviewed

    made = pydicom.dcmread(export_slide(slide, "dicom-report", tmp_path))
    (graphic,) = [element.value for element in made.iterall() if element.keyword == "GraphicData"]
    corners = np.array(graphic, float).reshape(-1, 3)
    spot = count_reviewed(slide.detections, mpp=0.499, tissue_mm2=1).hotspot
    centre = dicom_source(slide.record).position(spot.x, spot.y, 0.499)
    away = np.linalg.norm(corners - centre, axis=1)
    np.testing.assert_allclose(away, spot.half_width * 0.499 / 1000, rtol=1e-4)


def test_one_slide_has_one_identity(slide, tmp_path):
    """Everything about a slide that is no DICOM belongs to one made-up study, whenever it is written."""
    made = [pydicom.dcmread(export_slide(slide, kind, tmp_path)) for kind in FORMATS]
    again = pydicom.dcmread(export_slide(slide, "dicom-regions", tmp_path / "again"))
    assert len({dataset.StudyInstanceUID for dataset in [*made, again]}) == 1
    assert len({dataset.SOPInstanceUID for dataset in [*made, again]}) == 5
    assert again.FrameOfReferenceUID == made[1].FrameOfReferenceUID


def test_what_cannot_be_written_is_refused(slide, dicom_slide, tmp_path):
    from dataclasses import replace

    from pathology.outputs.export.dicom_seg import write_dicom_tissue

    with pytest.raises(UsageError, match="nothing to segment"):
        write_dicom_tissue(tmp_path / "a.dcm", slide.record, np.zeros((5, 5), bool))
    gone = dicom_slide.record.model_copy(update={"path": str(tmp_path / "gone")})
    with pytest.raises(SlideNotFoundError, match="identifiers"):
        export_slide(replace(dicom_slide, record=gone), "dicom-report", tmp_path)
    other = dicom_slide.record.model_copy(update={"width": 17})
    with pytest.raises(StoreError, match="slide's size"):
        dicom_source(other)
    with pytest.raises(StoreError, match="not scored"):
        dicom_source(slide.record.model_copy(update={"mpp": None}))
    assert not (tmp_path / "a.dcm").exists()
