"""Detections and decisions on disk, and decisions that come back from QuPath."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pathology.errors import StoreError, UsageError
from pathology.findings.mitotic_count import count_mitoses
from pathology.findings.reviewed_count import HOTSPOT_LIMIT, count_reviewed
from pathology.findings.slide_detections import Decision
from pathology.outputs.export.annotations import CANDIDATE, REJECTED, detection_features
from pathology.outputs.export.geojson import read_objects, write_geojson
from pathology.outputs.export.qupath_review import read_review
from pathology.outputs.results.detection_file import (
    DECISIONS,
    DETECTIONS,
    read_decisions,
    read_detections,
    write_decisions,
    write_detections,
)
from pathology.testing.constructed_results import random_detections


@pytest.fixture
def detections():
    return random_detections("slide", (4000, 3000), 200)


def rows(detections, *, counted, kind="mitosis"):
    names = np.array([c.name for c in detections.header.classes])[detections.kinds]
    return np.flatnonzero((detections.counted() == counted) & (names == kind)).tolist()


def test_round_trip(detections, tmp_path):
    write_detections(tmp_path, detections)
    again = read_detections(tmp_path)
    np.testing.assert_array_equal(again.found.boxes, detections.found.boxes)
    np.testing.assert_array_equal(again.found.scores, detections.found.scores)
    np.testing.assert_array_equal(again.kinds, detections.kinds)
    assert again.header == detections.header
    assert again.identity == detections.identity


def test_other_programs_read_it(detections, tmp_path):
    write_detections(tmp_path, detections)
    frame = pq.read_table(tmp_path / DETECTIONS).to_pandas()
    assert list(frame.columns) == ["left", "top", "right", "bottom", "score", "class"]
    assert set(frame["class"]) == {"mitosis", "look-alike"}


def test_none_is_no_error_and_rubbish_is(tmp_path, detections):
    assert read_detections(tmp_path) is None
    (tmp_path / DETECTIONS).write_bytes(b"rubbish")
    with pytest.raises(StoreError, match=DETECTIONS):
        read_detections(tmp_path)
    pq.write_table(pq.read_table(write(tmp_path / "other", detections)).drop_columns(["score"]), tmp_path / DETECTIONS)
    with pytest.raises(StoreError, match="score"):
        read_detections(tmp_path)


def write(folder, detections):
    write_detections(folder, detections)
    return folder / DETECTIONS


def test_uuids_lead_back_to_their_rows_and_only_those(detections):
    other = random_detections("other slide", (4000, 3000), 200)
    for row in (0, 1, 17, 199):
        assert detections.row_of(detections.uuid(row)) == row
        assert detections.row_of(detections.uuid(row).upper()) == row
        assert other.row_of(detections.uuid(row)) is None
    assert detections.row_of(detections.uuid(200)) is None
    assert detections.row_of("no uuid") is None
    assert detections.row_of("") is None


def test_what_counts(detections):
    plain = detections.counted()
    is_mitosis = detections.kinds == 0
    np.testing.assert_array_equal(plain, is_mitosis & (detections.found.scores >= 0.5))
    rejected, accepted = rows(detections, counted=True)[0], rows(detections, counted=False)[0]
    lookalike = rows(detections, counted=False, kind="look-alike")[0]
    decisions = {
        row: Decision.on(detections, row, verdict)
        for row, verdict in ((rejected, "rejected"), (accepted, "accepted"), (lookalike, "accepted"))
    }
    changed = np.flatnonzero(detections.counted(decisions) != plain)
    assert changed.tolist() == sorted([rejected, accepted, lookalike])
    count = count_reviewed(detections, decisions, mpp=0.25, tissue_mm2=2.0)
    assert (count.total, count.accepted, count.rejected) == (plain.sum() + 1, 2, 1)
    assert count.per_mm2 == count.total / 2


def test_the_hotspot_is_that_of_the_counted_ones(detections):
    rejected = rows(detections, counted=True)[:5]
    decisions = {row: Decision.on(detections, row, "rejected") for row in rejected}
    left = np.flatnonzero(detections.counted(decisions))
    expected = count_mitoses(detections.found.centres[left], 0.25).hotspot
    found = count_reviewed(detections, decisions, mpp=0.25, tissue_mm2=None)
    assert found.per_mm2 is None
    assert (found.hotspot.count, found.hotspot.x, found.hotspot.y) == (expected.count, expected.x, expected.y)
    assert found.hotspot.members == tuple(left[list(expected.members)])
    assert not set(found.hotspot.members) & set(rejected)


def test_no_hotspot_without_scale_without_any_or_of_absurdly_many(detections):
    assert count_reviewed(detections, mpp=None, tissue_mm2=None).hotspot is None
    assert count_reviewed(random_detections("a", (100, 100), 0), mpp=0.25, tissue_mm2=1).hotspot is None
    many = random_detections("many", (4000, 3000), 4 * HOTSPOT_LIMIT)
    assert many.counted().sum() > HOTSPOT_LIMIT
    assert count_reviewed(many, mpp=0.25, tissue_mm2=1).hotspot is None


def test_decisions_round_trip(detections, tmp_path):
    decisions = {row: Decision.on(detections, row, "rejected") for row in (7, 3)}
    write_decisions(tmp_path, detections, decisions.values())
    assert read_decisions(tmp_path, detections) == decisions
    with pytest.raises(UsageError, match="detection 200 does not exist"):
        Decision.on(detections, 200, "accepted")


def test_decisions_about_other_detections_are_kept_but_not_applied(detections, tmp_path):
    write_decisions(tmp_path, detections, [Decision.on(detections, 1, "accepted")])
    anew = random_detections("slide", (4000, 3000), 200, seed=1)
    assert read_decisions(tmp_path, anew) == {}
    write_decisions(tmp_path, anew, [Decision.on(anew, 2, "rejected")])
    assert list(read_decisions(tmp_path, anew)) == [2]
    assert len(list(tmp_path.glob("decisions.*.json"))) == 1


def test_damaged_decisions_are_not_overwritten(detections, tmp_path):
    (tmp_path / DECISIONS).write_text("{")
    with pytest.raises(StoreError, match=DECISIONS):
        read_decisions(tmp_path, detections)
    with pytest.raises(StoreError, match=DECISIONS):
        write_decisions(tmp_path, detections, [])
    assert (tmp_path / DECISIONS).read_text() == "{"


class TestQuPath:
    def edited(self, tmp_path, detections, earlier, edit):
        path = tmp_path / "edited.geojson"
        write_geojson(path, detection_features(detections, earlier))
        features = list(edit(list(read_objects(path))))
        return read_review(features, detections, earlier).decisions

    def test_untouched_objects_give_no_decisions(self, tmp_path, detections):
        assert self.edited(tmp_path, detections, {}, lambda features: features) == {}
        earlier = {row: Decision.on(detections, row, "rejected") for row in (0, 5)}
        assert self.edited(tmp_path, detections, earlier, lambda features: features) == earlier

    def test_classes_say_what_counts(self, detections):
        names = [feature.classification for feature in detection_features(detections)]
        for name, expected in (
            ("mitosis", rows(detections, counted=True)),
            (CANDIDATE, rows(detections, counted=False)),
        ):
            assert [row for row, found in enumerate(names) if found == name] == expected

    def test_deleting_and_reclassifying_reject_or_accept(self, tmp_path, detections):
        from dataclasses import replace

        deleted, rejected = rows(detections, counted=True)[:2]
        accepted = rows(detections, counted=False)[0]
        lookalike = rows(detections, counted=False, kind="look-alike")[0]

        def edit(features):
            for row, feature in enumerate(features):
                if row == deleted:
                    continue
                names = {rejected: REJECTED, accepted: "mitosis", lookalike: "mitosis"}
                yield replace(feature, classification=names.get(row, feature.classification))

        decisions = self.edited(tmp_path, detections, {}, edit)
        assert {row: d.verdict for row, d in decisions.items()} == {
            deleted: "rejected",
            rejected: "rejected",
            accepted: "accepted",
            lookalike: "accepted",
        }

    def test_a_rejection_can_be_taken_back(self, tmp_path, detections):
        from dataclasses import replace

        row = rows(detections, counted=True)[0]
        earlier = {row: Decision.on(detections, row, "rejected")}
        decisions = self.edited(
            tmp_path,
            detections,
            earlier,
            lambda features: (
                replace(f, classification="mitosis") if f.classification == REJECTED else f for f in features
            ),
        )
        assert decisions[row].verdict == "accepted"

    def test_another_slides_file_is_refused(self, detections):
        other = random_detections("other", (4000, 3000), 10)
        with pytest.raises(UsageError, match="none of this slide's detections"):
            read_review(detection_features(other), detections)
