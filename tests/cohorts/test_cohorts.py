"""Public cohorts: the real index, labels, the manifest, and fetching from a stand-in for the bucket."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from pathology.cli.cohort import app
from pathology.cohorts.fetch import FetchError, fetch
from pathology.cohorts.index import CohortSeries, find_cohort, read_cohort
from pathology.cohorts.labels import join_labels, read_diagnoses, write_manifest
from pathology.cohorts.selection import annotations_of, select, summarise
from pathology.errors import InputTableError, UsageError
from pathology.evaluation.labels import read_labels
from pathology.scoring.select import read_manifest

# -- the real index ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tcga():
    pytest.importorskip("idc_index_data")
    return read_cohort("tcga-sarc")


def test_tcga_sarc_is_what_is_published(tcga):
    slides = [one for one in tcga if one.modality == "SM"]
    assert len({one.name for one in tcga}) == len(tcga)
    assert len({one.patient_id for one in slides}) >= 255
    diagnostic = select(tcga, kind="diagnostic")
    assert all(one.description.startswith("FFPE") for one in diagnostic)
    assert 500 < len(diagnostic) < len(slides)
    first = select(tcga, kind="diagnostic", one_per_patient=True)
    assert len(first) == len({one.patient_id for one in diagnostic})
    assert sum(one.name.endswith("-DX1") for one in first) >= 250
    summary = summarise(first)
    assert set(summary.licences) == {"CC BY 3.0"}
    assert 1_000 < summary.median_mb < 3_000
    assert summary.size_mb == pytest.approx(sum(one.size_mb for one in first))
    assert {one.kind for one in annotations_of(first[:5], tcga)} == {"annotation"}


@pytest.mark.parametrize(("name", "modality", "patients"), [("rms", "SM", 400), ("sts", "PT", 50), ("qin", "MR", 15)])
def test_the_other_cohorts(name, modality, patients):
    pytest.importorskip("idc_index_data")
    series = read_cohort(name)
    assert len({one.patient_id for one in series if one.modality == modality}) >= patients
    assert all(one.url.startswith("s3://") and one.size_mb > 0 and one.licence for one in series)
    assert select(series, kind=find_cohort(name).kind)


def test_list_and_show(tcga):
    listed = CliRunner().invoke(app, ["list"])
    assert listed.exit_code == 0
    assert "tcga-sarc" in listed.stdout
    assert "CC BY 4.0" in listed.stdout
    shown = CliRunner().invoke(app, ["show", "tcga-sarc", "--one-per-patient", "--limit", "3", "--json"])
    content = json.loads(shown.stdout)
    assert content["patients"] == len(content["list"]) == 3
    assert {one["kind"] for one in content["list"]} == {"diagnostic"}


def test_real_labels_of_tcga(tcga, data_dir):
    table = data_dir / "survival" / "tcga_sarc_clinical.csv"
    diagnoses = read_diagnoses(table, patient="patient", label="histological_type")
    joined = join_labels(select(tcga, kind="diagnostic", one_per_patient=True), diagnoses)
    assert set(joined.labels.values()) == {"LMS", "DDLPS", "MFS", "UPS", "MPNST", "SS", "SS-PD"}
    assert sum("covers several entities" in reason for reason in joined.excluded) == 2  # both kinds of old MFH
    assert len(joined.labels) + sum(joined.excluded.values()) == len(
        select(tcga, kind="diagnostic", one_per_patient=True)
    )


# -- selection and labels ---------------------------------------------------------------------------------------------


def one(name, patient="TCGA-AB-0001", **changes):
    base = CohortSeries(
        name, patient, f"study-{patient}", f"1.2.{name}", "SM", "diagnostic", "FFPE HE TP DX1", 10.0, 2, "CC BY 3.0",
        "10.1/x", "JPEG Baseline", f"s3://bucket/{name}/*",
    )  # fmt: skip
    return replace(base, **changes)


def test_the_first_slide_of_a_patient_is_the_lowest_number():
    series = [one("p-DX10"), one("p-DX2"), one("q-DX1", "TCGA-AB-0002")]
    assert [s.name for s in select(series, one_per_patient=True)] == ["p-DX2", "q-DX1"]
    assert [s.name for s in select(series, limit=1)] == ["p-DX10", "p-DX2"]
    assert [s.name for s in select([*series, one("r", size_mb=99.0)], largest_mb=50)] == ["p-DX10", "p-DX2", "q-DX1"]


def test_nothing_fits():
    with pytest.raises(UsageError, match="no series of the cohort matches"):
        select([one("p")], kind="frozen")
    with pytest.raises(UsageError, match="not in the cohort"):
        select([one("p")], patients=["X"])
    with pytest.raises(UsageError, match="Choose one of: tcga-sarc, rms, sts, qin"):
        find_cohort("sarc")


def test_labels_in_todays_names():
    series = [one(n, p) for n, p in (("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"), ("e", "E"))]
    joined = join_labels(
        series,
        {"A": "Leiomyosarcoma (LMS)", "B": "Malignant Fibrous Histiocytoma", "C": "wibble", "D": "SS"},
        classes={"LMS"},
    )
    assert joined.labels == {"a": "LMS"}
    assert sum(joined.excluded.values()) == 4
    assert any("covers several entities" in reason for reason in joined.excluded)
    assert joined.vocabulary.startswith("WHO 2020")


def test_tables_that_cannot_be_joined(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("patient,diagnosis\nA,LMS\nA,SS\n")
    with pytest.raises(InputTableError, match="two diagnoses"):
        read_diagnoses(table, patient="patient", label="diagnosis")
    with pytest.raises(InputTableError, match="no column 'histology'"):
        read_diagnoses(table, patient="patient", label="histology")
    table.write_text("patient,diagnosis\n,\n")
    with pytest.raises(InputTableError, match="has no patient"):
        read_diagnoses(table, patient="patient", label="diagnosis")


def test_the_manifest_is_one_that_scoring_and_training_take(tmp_path):
    series = [one("TCGA-AB-0001-DX1"), one("TCGA-CD-0002-DX1", "TCGA-CD-0002"), one("no-label", "Z")]
    for s in series:
        (tmp_path / s.name).mkdir()
    manifest = tmp_path / "manifest.csv"
    assert write_manifest(manifest, series, tmp_path, {"TCGA-AB-0001-DX1": "LMS", "TCGA-CD-0002-DX1": "UPS"}) == 2
    entries = read_manifest(manifest)
    assert [entry.slide_id for entry in entries] == ["TCGA-AB-0001-DX1", "TCGA-CD-0002-DX1"]
    assert entries[0].path == tmp_path / "TCGA-AB-0001-DX1"
    labelled = read_labels(manifest, entries, ("LMS", "UPS"))
    assert labelled.labels == [0, 1]
    assert [slide.site for slide in labelled.slides] == ["AB", "CD"]
    assert write_manifest(manifest, series, tmp_path) == 3


# -- fetching ---------------------------------------------------------------------------------------------------------


class _Bucket(BaseHTTPRequestHandler):
    """What fetching needs of S3: listing in pages, ETags, ranges; and it can break off."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        if "list-type" in query:
            keys = sorted(key for key in server.objects if key.startswith(query["prefix"][0]))
            start = int(query.get("continuation-token", ["0"])[0])
            page = keys[start : start + 2]
            token = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if start + 2 < len(keys) else ""
            body = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(server.objects[key])}</Size>"
                f"<ETag>&quot;{server.tags.get(key) or hashlib.md5(server.objects[key]).hexdigest()}&quot;</ETag>"
                "</Contents>"
                for key in page
            )
            self._send(200, f"<ListBucketResult>{body}{token}</ListBucketResult>".encode())
            return
        key = split.path.removeprefix("/bucket/")
        content = server.objects[key]
        ranged = self.headers.get("Range")
        begin = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        server.asked.append((key, begin))
        if key in server.breaks:
            server.breaks.discard(key)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self._send(206 if ranged else 200, content[begin:])

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    server.objects = {f"{name}/{i}.dcm": bytes([i]) * (1000 + 700 * i) for name in ("a", "b") for i in range(5)}
    server.tags, server.breaks, server.asked = {}, set(), []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetches_all_pages_and_nothing_twice(bucket, tmp_path):
    seen = []
    done = fetch(
        [one("a"), one("b")], tmp_path, endpoint=bucket.address, progress=lambda name, count: seen.append((name, count))
    )
    assert (done.series, done.files, done.already_present) == (2, 10, 0)
    for key, content in bucket.objects.items():
        assert (tmp_path / key).read_bytes() == content
    assert sum(count for _, count in seen) == done.bytes == sum(map(len, bucket.objects.values()))
    again = fetch([one("a"), one("b")], tmp_path, endpoint=bucket.address)
    assert (again.files, again.already_present, again.bytes) == (0, 10, 0)


def test_goes_on_where_it_was_broken_off(bucket, tmp_path):
    bucket.breaks = {"a/4.dcm"}
    fetch([one("a")], tmp_path, endpoint=bucket.address)
    assert (tmp_path / "a" / "4.dcm").read_bytes() == bucket.objects["a/4.dcm"]
    assert [begin for key, begin in bucket.asked if key == "a/4.dcm"] == [0, 1900]
    # A run that was killed leaves a part, which the next one completes.
    (tmp_path / "a" / "4.dcm").unlink()
    (tmp_path / "a" / "4.dcm.partial").write_bytes(bucket.objects["a/4.dcm"][:1234])
    done = fetch([one("a")], tmp_path, endpoint=bucket.address)
    assert done.bytes == len(bucket.objects["a/4.dcm"]) - 1234
    assert not list(tmp_path.rglob("*.partial"))


def test_a_wrong_sum_is_refused(bucket, tmp_path):
    bucket.tags["a/2.dcm"] = "0" * 32
    with pytest.raises(FetchError, match="MD5 checksum mismatch"):
        fetch([one("a")], tmp_path, endpoint=bucket.address)
    assert not (tmp_path / "a" / "2.dcm").exists()
    assert (tmp_path / "a" / "1.dcm").exists()


def test_without_network_one_clear_error(bucket, tmp_path):
    address = bucket.address
    with pytest.raises(FetchError, match="series not found"):
        fetch([one("nothing")], tmp_path, endpoint=address)
    bucket.shutdown()
    bucket.server_close()
    with pytest.raises(FetchError, match=r"cannot be reached.*--endpoint"):
        fetch([one("a")], tmp_path, endpoint=address)
    with pytest.raises(UsageError, match="not a web address"):
        fetch([one("a")], tmp_path, endpoint="file:///etc")


def test_fetch_command_shows_sizes_first_and_asks(bucket, tcga, tmp_path, monkeypatch):
    uid = select(tcga, kind="diagnostic", limit=1)[0]
    prefix = uid.url.removeprefix("s3://idc-open-data/").removesuffix("*")
    bucket.objects = {f"{prefix}{i}.dcm": b"x" * 10 for i in range(3)}

    class Handler(_Bucket):
        def do_GET(self):
            self.path = self.path.replace("/idc-open-data", "/bucket")
            super().do_GET()

    bucket.RequestHandlerClass = Handler
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient,histological_type\n{uid.patient_id},Leiomyosarcoma\n")
    arguments = ["fetch", "tcga-sarc", "--one-per-patient", "--out", str(tmp_path / "out"), "--labels", str(table)]
    refused = CliRunner().invoke(app, [*arguments, "--endpoint", bucket.address], input="n\n")
    assert "CC BY 3.0" in refused.stdout
    assert "Nothing downloaded" in refused.stdout
    assert not bucket.asked
    done = CliRunner().invoke(app, [*arguments, "--endpoint", bucket.address, "--yes"])
    assert done.exit_code == 0, done.output
    assert "1 LMS" in done.stdout
    assert "3 files downloaded" in done.stdout
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 1
