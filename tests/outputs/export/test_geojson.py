"""GeoJSON: QuPath's field names, round trips, streaming, damaged files."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.errors import OutputError, StoreError
from pathology.outputs.export.geojson import Feature, read_geojson, rectangle, write_geojson

FEATURE = Feature(
    (rectangle(1, 2, 30.5, 40.25),),
    kind="detection",
    classification="mitosis",
    colour=(213, 94, 0),
    name='a "name" µ',
    measurements={"Score": 0.75, "Area mm^2": 1e-6},
    identity="00000000-0000-8000-8000-000000000001",
    locked=True,
)


def test_fields_are_named_as_qupath_names_them(tmp_path):
    path = tmp_path / "a.geojson"
    assert write_geojson(path, [FEATURE]) == 1
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": "00000000-0000-8000-8000-000000000001",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[1, 2], [30.5, 2], [30.5, 40.25], [1, 40.25], [1, 2]]],
                },
                "properties": {
                    "objectType": "detection",
                    "name": 'a "name" µ',
                    "classification": {"name": "mitosis", "color": [213, 94, 0]},
                    "isLocked": True,
                    "measurements": {"Score": 0.75, "Area mm^2": 1e-6},
                },
            }
        ],
    }


def test_what_is_missing_is_not_written(tmp_path):
    write_geojson(tmp_path / "a.geojson", [Feature((rectangle(0, 0, 1, 1),), measurements={"m": float("nan")})])
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert set(feature) == {"type", "geometry", "properties"}
    assert feature["properties"] == {"objectType": "annotation", "measurements": {}}


names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
coordinates = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
colours = st.none() | st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def features(draw):
    polygon = tuple(
        np.array(draw(st.lists(st.tuples(coordinates, coordinates), min_size=4, max_size=6)))
        for _ in range(draw(st.integers(1, 2)))
    )
    classification = draw(st.none() | names.filter(bool))
    return Feature(
        (polygon,) * draw(st.integers(1, 2)),
        kind=draw(st.sampled_from(["annotation", "detection", "tile"])),
        classification=classification,
        colour=None if classification is None else draw(colours),
        name=draw(st.none() | names),
        measurements=draw(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
        identity=draw(st.none() | st.uuids().map(str)),
        locked=draw(st.booleans()),
    )


@given(st.lists(features(), max_size=4))
def test_round_trip(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    write_geojson(path, written)
    read = list(read_geojson(path))
    assert len(read) == len(written)
    for before, after in zip(written, read, strict=True):
        for field in ("kind", "classification", "colour", "name", "measurements", "identity", "locked"):
            assert getattr(before, field) == getattr(after, field)
        for rings, again in zip(before.polygons, after.polygons, strict=True):
            for ring, other in zip(rings, again, strict=True):
                np.testing.assert_allclose(other, ring, atol=5e-4)


def test_older_qupath_files_are_read(tmp_path):
    path = tmp_path / "old.geojson"
    path.write_text(
        json.dumps(
            [
                {
                    "type": "Feature",
                    "id": "PathDetectionObject",
                    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
                    "properties": {
                        "classification": {"name": "Tumor", "colorRGB": -3670016},
                        "isLocked": False,
                        "measurements": [{"name": "Score", "value": 0.5}],
                    },
                },
                {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
            ]
        )
    )
    (feature,) = read_geojson(path)
    assert (feature.kind, feature.classification, feature.colour) == ("detection", "Tumor", (200, 0, 0))
    assert feature.measurements == {"Score": 0.5}
    assert feature.identity is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "{}",
        '{"type":"FeatureCollection"}',
        '{"type":"FeatureCollection","features":[{"type":"Feature"',
        '{"type":"FeatureCollection","features":[{"geometry":{"type":"Polygon"}}]}',
        '{"type":"Feature","geometry":null}',
        "[1]",
        "[" * 100_000,
        '{"features":[{"geometry":' + "[" * 100_000,
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, content):
    path = tmp_path / "bad.geojson"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"bad\.geojson"):
        list(read_geojson(path))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "bad.geojson"
    path.write_bytes(b'{"features":[\xff\xfe]}')
    with pytest.raises(StoreError, match="UTF-8"):
        list(read_geojson(path))


def test_memory_does_not_grow_with_the_number_of_features(tmp_path):
    circle = np.stack([np.cos(np.linspace(0, 6.28, 150)), np.sin(np.linspace(0, 6.28, 150))], axis=1) * 1000

    def many(count):
        return (Feature(((circle + i,),), kind="detection", measurements={"s": 0.5}) for i in range(count))

    def peaks(count):
        path = tmp_path / f"{count}.geojson"
        tracemalloc.start()
        write_geojson(path, many(count))
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert sum(1 for _ in read_geojson(path)) == count
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return written, read

    small, large = peaks(1_000), peaks(2_500)  # 2.5 and 6 MB: several of the chunks that are read at once
    assert large[0] < small[0] + 2**18
    assert large[1] < small[1] + 2**20


def test_a_failure_leaves_nothing_behind(tmp_path):
    def broken():
        yield FEATURE
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_geojson(tmp_path / "a.geojson", broken())
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_geojson(tmp_path / "file" / "a.geojson", [FEATURE])
