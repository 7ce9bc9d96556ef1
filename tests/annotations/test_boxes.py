"""Annotations in the formats people have: coordinates to the pixel, and one list of what is broken."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathology.annotations import BrokenBoxesError, check_boxes, read_boxes
from pathology.errors import InputTableError
from pathology.outputs.export.geojson import Feature, rectangle, write_geojson
from pathology.scoring.select import select_slides

SIDE, COUNT = 128, 40
LABELS = ("mitosis", "non-mitosis")


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Forty crops; each holds a mitosis, every third a look-alike, and the last nothing."""
    folder = tmp_path_factory.mktemp("fields")
    random = np.random.default_rng(0)
    marks = {}
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"c{number:02}.png")
        x, y = (int(v) for v in random.integers(0, 40, 2))
        marks[f"c{number:02}"] = [("mitosis", x, y, x + 50, y + 46)]
        if number % 3 == 0:
            marks[f"c{number:02}"].append(("non-mitosis", 70, y, 118, y + 50))
    marks[f"c{COUNT - 1:02}"] = []
    return folder, marks


def write_coco(folder, marks, corners):
    images = [{"id": n, "file_name": f"{name}.png", "width": SIDE, "height": SIDE} for n, name in enumerate(marks)]
    entries = [
        {"image_id": n, "category_id": LABELS.index(label), "bbox": [x, y, r, b] if corners else [x, y, r - x, b - y]}
        for n, name in enumerate(marks)
        for label, x, y, r, b in marks[name]
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(LABELS)]
    content = {"images": images, "categories": categories, "annotations": entries}
    if corners:
        content["info"] = {"description": "MIDOG++"}
    (folder / "boxes.json").write_text(json.dumps(content))


def write_yolo(folder, marks):
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("names: [mitosis, non-mitosis]\n")
    for name, entries in marks.items():
        lines = []
        for k, x, y, r, b in entries:
            values = [(x + r) / 2, (y + b) / 2, r - x, b - y]
            lines.append(" ".join([str(LABELS.index(k)), *(f"{value / SIDE:.6f}" for value in values)]))
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines))


def write_voc(folder, marks):
    for name, entries in marks.items():
        objects = "".join(
            f"<object><name>{k}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{r}</xmax><ymax>{b}</ymax></bndbox>"
            "</object>"
            for k, x, y, r, b in entries
        )
        (folder / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{objects}</annotation>")


REGION = ("looked at", 0, 0, SIDE, SIDE)


def write_qupath(folder, marks):
    for name, entries in marks.items():
        shapes = [Feature((rectangle(*box),), classification=k) for k, *box in [REGION, *entries]]
        write_geojson(folder / f"{name}.geojson", shapes)


def corners_of(box, tag):
    left, top, right, bottom = box
    places = ((left, top), (right, top), (right, bottom), (left, bottom))
    return "".join(f'<{tag} X="{x}" Y="{y}"/>' for x, y in places)


def write_asap(folder, marks):
    for name, entries in marks.items():
        shapes = "".join(
            f'<Annotation Name="A" Type="Rectangle" PartOfGroup="{k}"><Coordinates>'
            f"{corners_of(box, 'Coordinate')}</Coordinates></Annotation>"
            for k, *box in [REGION, *entries]
        )
        text = f"<ASAP_Annotations><Annotations>{shapes}</Annotations></ASAP_Annotations>"
        (folder / f"{name}.xml").write_text(text)


def write_imagescope(folder, marks):
    for name, entries in marks.items():
        layers = "".join(
            f'<Annotation Name="{k}"><Regions><Region Type="1"><Vertices>{corners_of(box, "Vertex")}</Vertices>'
            "</Region></Regions></Annotation>"
            for k, *box in [REGION, *entries]
        )
        (folder / f"{name}.xml").write_text(f'<Annotations MicronsPerPixel="0.25">{layers}</Annotations>')


def write_table(folder, marks):
    rows = ["slide,label,xmin,ymin,xmax,ymax"]
    for name, entries in marks.items():
        rows += [f"{name},{k},{x},{y},{r},{b}" for k, x, y, r, b in ([REGION, *entries] if entries else entries)]
        rows += [] if entries else [f"{name},,,,,"]
    (folder / "boxes.csv").write_text("\n".join(rows))


WRITERS = {
    "COCO JSON": lambda folder, marks: write_coco(folder, marks, corners=False),
    "MIDOG JSON": lambda folder, marks: write_coco(folder, marks, corners=True),
    "YOLO": write_yolo,
    "Pascal VOC": write_voc,
    "QuPath GeoJSON": write_qupath,
    "ASAP XML": write_asap,
    "ImageScope XML": write_imagescope,
    "CSV": write_table,
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_keeps_boxes_to_the_pixel(form, fields, tmp_path):
    folder, marks = fields
    WRITERS[form](tmp_path, marks)
    files = read_boxes([tmp_path])
    assert {file.form for file in files} == {form}
    found = check_boxes(files, select_slides([folder]), mpp=0.25)
    assert [slide.entry.slide_id for slide in found] == sorted(marks)
    for slide in found:
        entries = marks[slide.entry.slide_id]
        for boxes, label in ((slide.mitoses, LABELS[0]), (slide.look_alikes, LABELS[1])):
            expected = np.array([box for kind, *box in entries if kind == label], float).reshape(-1, 4)
            np.testing.assert_allclose(boxes, expected, atol=0.01)
        assert slide.looked_at(np.array([[64.0, 64.0]])).all()


def test_points_take_a_stated_size(fields, tmp_path):
    folder, _ = fields
    table = tmp_path / "points.csv"
    table.write_text("slide;x;y;label;size_um\nc00;60,5;50;Mitosis;12,5\nc01;64;64;MF;\n")
    found = check_boxes(read_boxes([table]), select_slides([folder]), mpp=0.25, box_um=10, whole=True)
    assert found[0].mitoses.tolist() == [[35.5, 25, 85.5, 75]]
    assert found[1].mitoses.tolist() == [[44, 44, 84, 84]]


def test_a_polygon_becomes_its_bounding_box_and_regions_keep_their_shape(fields, tmp_path):
    folder, _ = fields
    triangle = (np.array([(0, 0), (128, 0), (0, 128), (0, 0)], float),)
    star = (np.array([(20, 10), (44, 22), (31, 50), (20, 10)], float),)
    write_geojson(
        tmp_path / "c00.png.geojson",
        [Feature((triangle,), classification="Region*"), Feature((star,), classification="Mitosis: Positive")],
    )
    (slide,) = check_boxes(read_boxes([tmp_path / "c00.png.geojson"]), select_slides([folder]), mpp=0.25)
    assert slide.mitoses.tolist() == [[20, 10, 44, 50]]
    assert slide.looked_at(np.array([[30.0, 30], [100, 100]])).tolist() == [True, False]


BROKEN = {
    "outside the image": "c00,mitosis,200,200,250,250",
    "empty box": "c00,mitosis,20,20,20,60",
    "unknown class": "c00,nucleus,20,20,60,60",
    "wrong size": "c00,mitosis,20,20,30,30",
    "no numbers": "c00,mitosis,20,twenty,60,60",
    "slide not given": "elsewhere,mitosis,20,20,60,60",
    "doubled box": "c00,mitosis,5,5,55,55\nc00,hard negative,5,5,55,55",
    "outside the regions": "c00,region,0,0,30,30\nc00,mitosis,60,60,110,110",
}


def test_everything_broken_is_in_one_list(fields, tmp_path):
    folder, _ = fields
    header = "slide,label,xmin,ymin,xmax,ymax\n"
    for kind, rows in BROKEN.items():
        (tmp_path / "boxes.csv").write_text(header + rows)
        with pytest.raises(BrokenBoxesError) as caught:
            check_boxes(read_boxes([tmp_path]), select_slides([folder]), mpp=0.25, whole=True)
        assert [problem for problem, _ in caught.value.problems] == [kind]
    (tmp_path / "boxes.csv").write_text(header + "\n".join(BROKEN.values()))
    with pytest.raises(BrokenBoxesError) as caught:
        check_boxes(read_boxes([tmp_path]), select_slides([folder]), mpp=0.25, whole=True)
    assert {kind for kind, _ in caught.value.problems} == set(BROKEN)
    assert caught.value.exit_status == 2
    assert "boxes.csv, line 2" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize(("width", "kind"), [(12, "wrong size"), (100, None)])
def test_a_mitosis_of_3_um_is_refused(width, kind, fields, tmp_path):
    folder, _ = fields
    (tmp_path / "boxes.csv").write_text(f"slide,label,xmin,ymin,xmax,ymax\nc00,mitosis,0,0,{width},{width}")
    arguments = read_boxes([tmp_path]), select_slides([folder])
    if kind is None:
        assert len(check_boxes(*arguments, mpp=0.25, whole=True)) == 1
        with pytest.raises(BrokenBoxesError, match=r"100\.0 µm at 1 µm"):
            check_boxes(*arguments, mpp=1.0, whole=True)
    else:
        with pytest.raises(BrokenBoxesError, match=kind):
            check_boxes(*arguments, mpp=0.25, whole=True)


def test_what_was_never_looked_at_is_not_negative(fields, tmp_path):
    folder, _ = fields
    write_geojson(tmp_path / "c00.geojson", [Feature((rectangle(10, 10, 60, 60),), classification="mitosis")])
    arguments = read_boxes([tmp_path]), select_slides([folder])
    with pytest.raises(BrokenBoxesError, match="looked-at tissue unknown"):
        check_boxes(*arguments, mpp=0.25)
    assert check_boxes(*arguments, mpp=0.25, whole=True)[0].whole


def test_a_slide_without_scale_is_listed(fields, tmp_path):
    folder, marks = fields
    write_table(tmp_path, marks)
    with pytest.raises(BrokenBoxesError, match="unusable slide"):
        check_boxes(read_boxes([tmp_path]), select_slides([folder]))


def test_annotations_made_at_another_size_are_refused(fields, tmp_path):
    folder, marks = fields
    write_coco(tmp_path, {"c00": marks["c00"]}, corners=False)
    path = tmp_path / "boxes.json"
    path.write_text(path.read_text().replace(f'"width": {SIDE}', '"width": 256'))
    with pytest.raises(BrokenBoxesError, match="image of another size"):
        check_boxes(read_boxes([path]), select_slides([folder]), mpp=0.25)


def test_corners_in_a_plain_coco_file_are_recognised(fields, tmp_path):
    folder, _ = fields
    content = {
        "images": [{"id": 0, "file_name": "c00.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "mitosis"}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [60, 70, 110, 120]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (slide,) = check_boxes(read_boxes([tmp_path]), select_slides([folder]), mpp=0.25)
    assert slide.mitoses.tolist() == [[60, 70, 110, 120]]


def test_images_that_are_not_given_are_left_out_on_request(fields, tmp_path):
    folder, marks = fields
    write_table(tmp_path, marks)
    found = check_boxes(read_boxes([tmp_path]), select_slides([folder / "c00.png"]), mpp=0.25, skip_missing=True)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", "<other/>"),
        ("a.xml", "<annotation>"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
        ("a.json", '{"images": [{}]}'),
        ("a.json", "{"),
        ("a.csv", "x,y\n1,2\n"),
        ("a.doc", "mitosis"),
    ],
)
def test_files_that_hold_no_annotations_are_refused(name, content, tmp_path):
    path: Path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputTableError, match=name):
        read_boxes([path])
