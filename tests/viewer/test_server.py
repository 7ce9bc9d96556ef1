"""The server: what it serves, and everything it refuses."""

import contextlib
import http.client
import json
import socket
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from pathology.outputs.results.detection_file import DECISIONS
from pathology.outputs.results.results_folder import open_results
from pathology.viewer.batch import Batch
from pathology.viewer.server import ViewerServer


def decide(client, row, verdict, slide="0/square", **headers):
    body = json.dumps({"row": row, "verdict": verdict}).encode()
    headers.setdefault("Content_Type", "application/json")
    return client(f"api/decision/{slide}", method="POST", body=body, **headers)


class TestRefusals:
    @pytest.mark.parametrize("path", ["/", "/api/batch", "/wrong/api/batch", "//api/batch", "/%00/"])
    def test_without_the_token(self, shared, path):
        assert shared(path).status == 403

    def test_a_token_that_only_begins_right(self, shared):
        assert shared(f"/{shared.token[:-1]}/api/batch").status == 403
        assert shared(f"/{shared.token}x/api/batch").status == 403

    @pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "localhost:1", "127.0.0.1.example.com:80", ""])
    def test_other_hosts(self, shared, host):
        assert shared("api/batch", Host=host).status == 403

    def test_no_host_at_all(self, shared):
        with socket.create_connection(("127.0.0.1", shared.server.port)) as connection:
            connection.sendall(f"GET /{shared.token}/api/batch HTTP/1.0\r\n\r\n".encode())
            assert b" 403 " in connection.recv(1000)

    def test_its_own_names_are_served(self, shared):
        for host in (f"127.0.0.1:{shared.server.port}", f"localhost:{shared.server.port}"):
            assert shared("api/batch", Host=host).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            "../../../etc/passwd",
            "..%2f..%2f..%2fetc/passwd",
            "assets/../../server.py",
            "api/file/0/square/slide.json",
            "api/file/0/square/../slide.json",
            "api/file/0/square/..%2fslide.json",
            "api/file/0/..%2f..%2fother/report.html",
            "api/file/0/%2e%2e/report.html",
            "api/file/0/square/predictions.zarr",
            "api/about/0/..",
            "api/tile/0/..%2f..%2fslides%2fsquare/0/0/0",
            "api/mask/0/square/..%2f..%2fx",
            "api/unknown/0/square",
        ],
    )
    def test_paths_outside_and_files_not_on_the_list(self, shared, path):
        reply = shared(path)
        assert reply.status in (400, 404)
        assert "error" in reply.json

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    def test_other_methods(self, shared, method):
        assert shared("api/batch", method=method).status in (405, 501)

    @pytest.mark.parametrize(
        "path", ["api/batch", "api/about/0/square", "index.html", "api/decision/0", "api/decision/0/square/x"]
    )
    def test_writing_anything_but_decisions(self, shared, path):
        assert shared(path, method="POST", body=b"{}", Content_Type="application/json").status == 405

    def test_decisions_from_another_site(self, shared):
        assert decide(shared, 0, "rejected", Origin="http://example.com").status == 403
        assert decide(shared, 0, "rejected", Content_Type="text/plain").status == 415
        assert decide(shared, 0, None, Origin=f"http://{shared.host}").status == 200

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'{"row":0}',
            b'{"row":"0","verdict":"accepted"}',
            b'{"row":0,"verdict":"maybe"}',
            b'{"row":-1,"verdict":"accepted"}',
            b'{"row":60,"verdict":"accepted"}',
            b'{"row":true,"verdict":null}',
        ],
    )
    def test_decisions_that_are_none(self, shared, template, body):
        reply = shared("api/decision/0/square", method="POST", body=body, Content_Type="application/json")
        assert reply.status == 400
        assert not json.loads((template / "first" / "slides" / "square" / DECISIONS).read_text())["decisions"]

    def test_a_body_without_end(self, shared):
        assert (
            shared(
                "api/decision/0/square",
                method="POST",
                body=b"{}",
                Content_Type="application/json",
                Content_Length="999999999",
            ).status
            == 413
        )
        assert shared("api/decision/0/square", method="POST", Content_Type="application/json").status == 413

    @pytest.mark.parametrize(
        "path",
        [
            "api/about/9/square",
            "api/about/x/square",
            "api/about/0/nobody",
            "api/tile/0/square/0/99/0",
            "api/tile/0/square/x/0/0",
            "api/heatmap/0/square?class=fat",
            "api/heatmap/0/bad",
            "api/detections/1/square/window?left=0&top=0&right=9&bottom=9&least=0",
            "api/detections/0/square/window?left=0&top=0&right=9&bottom=9",
            "api/detections/0/square/window?left=9&top=0&right=0&bottom=9&least=0",
            "api/detections/0/square/window?left=nan&top=0&right=9&bottom=9&least=0",
        ],
    )
    def test_what_is_not_there(self, shared, path):
        reply = shared(path)
        assert reply.status == 400
        assert reply.json["error"]

    def test_answers_forbid_the_page_to_load_from_elsewhere(self, shared):
        headers = shared("api/batch").headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers or "Python" not in headers["Server"]


def test_the_table(shared):
    overview = shared("api/batch").json
    assert overview["notice"] == "Research use only. Not for diagnosis or treatment."
    assert [run["slides"] for run in overview["runs"]] == [3, 1]
    rows = {(row["run"], row["id"]): row for row in overview["slides"]}
    assert rows[0, "square"]["prediction"] == "stroma"
    assert rows[0, "square"]["confidence"] == pytest.approx(0.85, abs=0.03)
    assert rows[0, "bad"]["status"] == "failed"
    assert rows[0, "bad"]["reason"].startswith("The file is truncated")
    assert len(overview["colour_maps"]["viridis"]) == 3 * 256


def test_names_with_every_kind_of_sign(tmp_path, serve):
    from pathology.testing.constructed_results import write_constructed_results

    name = "a b%2f&?#'\"é"
    with serve(write_constructed_results(tmp_path / "out", slide_ids=(name,), dimensions=(1500, 1200))) as client:
        (row,) = client("api/batch").json["slides"]
        assert row["id"] == name
        about = client(f"api/about/0/{row['key']}").json
        assert about["id"] == name
        assert client(f"api/tile/0/{row['key']}/0/0/0").status == 200
        assert client(f"api/file/0/{row['key']}/report.html").status == 200


def test_about_a_slide(shared, template):
    about = shared("api/about/0/square").json
    assert about["image"] == {"width": 3000, "height": 2400, "tile": 256, "coarsest": 4}
    assert about["image_error"] is None
    assert about["warnings"] == []
    heatmap = open_results(template / "first")["square"].heatmaps
    assert about["heatmap"]["stride"] == heatmap.stride
    assert (about["heatmap"]["rows"], about["heatmap"]["columns"]) == heatmap.shape
    assert [layer["name"] for layer in about["layers"]] == ["tissue", "blur", "pen"]
    assert about["others"] == [{"run": 1, "key": "square", "name": "second", "model": "constructed 1.0.0"}]
    assert about["detections"]["total"] == 60


def test_maps_are_the_predictions(shared, template):
    heatmap = open_results(template / "first")["square"].heatmaps
    values = np.frombuffer(shared("api/heatmap/0/square?class=tumour").body, np.uint8).reshape(heatmap.shape)
    expected = heatmap.probability("tumour")
    np.testing.assert_array_equal(values == 255, np.isnan(expected))
    known = ~np.isnan(expected)
    np.testing.assert_allclose(values[known] / 254, expected[known], atol=1 / 500)
    predicted, confidence = np.frombuffer(shared("api/heatmap/0/square").body, np.uint8).reshape(2, *heatmap.shape)
    np.testing.assert_array_equal(predicted, np.where(heatmap.predicted() < 0, 255, heatmap.predicted()))
    np.testing.assert_allclose(confidence[known] / 254, heatmap.confidence()[known], atol=1 / 500)


def test_masks_are_pictures_of_the_masks(shared, template):
    import io

    mask = open_results(template / "first")["square"].tissue
    reply = shared("api/mask/0/square/tissue")
    assert reply.headers["Content-Type"] == "image/png"
    alpha = np.asarray(Image.open(io.BytesIO(reply.body)).convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(alpha == 255, mask)


def unpack(body):
    kind, count = struct.unpack_from("<II", body)
    assert kind == 0
    rows = np.frombuffer(body, "<u4", count, 8)
    boxes = np.frombuffer(body, "<f4", 4 * count, 8 + 4 * count).reshape(-1, 4)
    scores = np.frombuffer(body, "<f4", count, 8 + 20 * count)
    kinds, states, counted = np.frombuffer(body, np.uint8, 3 * count, 8 + 24 * count).reshape(3, count)
    assert len(body) == 8 + 27 * count
    return rows, boxes, scores, kinds, states, counted


WHOLE = "api/detections/0/square/window?left=0&top=0&right=3000&bottom=2400"


def test_detections_of_a_window(shared, template):
    detections = open_results(template / "first")["square"].detections
    rows, boxes, scores, kinds, states, counted = unpack(shared(f"{WHOLE}&least=0").body)
    assert rows.tolist() == list(range(60))
    np.testing.assert_array_equal(boxes, detections.found.boxes)
    np.testing.assert_array_equal(scores, detections.found.scores)
    np.testing.assert_array_equal(kinds, detections.kinds)
    np.testing.assert_array_equal(counted, detections.counted())
    assert not states.any()
    some = unpack(shared(f"{WHOLE}&least=0.5").body)[0]
    assert some.tolist() == np.flatnonzero(detections.found.scores >= 0.5).tolist()


def test_decisions_change_the_count_and_are_saved(client, results):
    detections = open_results(results[0])["square"].detections
    before = client("api/about/0/square").json["detections"]["count"]
    row = int(np.flatnonzero(detections.counted())[0])
    reply = decide(client, row, "rejected").json
    assert reply["detection"]["verdict"] == "rejected"
    assert reply["count"]["total"] == before["total"] - 1
    assert reply["count"]["rejected"] == 1
    assert unpack(client(f"{WHOLE}&least=0").body)[4][row] == 2
    saved = open_results(results[0])["square"].decisions()
    assert saved[row].verdict == "rejected"
    assert decide(client, row, None).json["count"] == before
    assert open_results(results[0])["square"].decisions() == {}


def test_decisions_of_several_at_once_are_all_kept(client, results):
    threads = [threading.Thread(target=decide, args=(client, row, "accepted")) for row in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(open_results(results[0])["square"].decisions()) == list(range(12))


def test_stepping_through_detections(client, results):
    scores = open_results(results[0])["square"].detections.found.scores
    step = "api/detections/0/square/next?least={least}&after={after}"
    assert client(step.format(least=0, after=-1)).json["row"] == 0
    assert client(step.format(least=0, after=59)).json is None
    assert client(step.format(least=0, after=60) + "&back=1").json["row"] == 59
    last = int(np.flatnonzero(scores >= 0.5)[-1])
    assert client(step.format(least=0.5, after=last)).json is None
    decide(client, 1, "accepted")
    assert client(step.format(least=0, after=0) + "&undecided=1").json["row"] == 2


def test_a_slide_that_moved(client, results, serve):
    moved = results[0].parent / "elsewhere"
    (results[0].parent / "slides").rename(moved)
    about = client("api/about/0/square").json
    assert about["image"] is None
    assert "is missing" in about["image_error"]
    assert "--slides" in about["image_error"]
    assert about["heatmap"] is not None
    reply = client("api/tile/0/square/0/0/0")
    assert reply.status == 410
    assert "is missing" in reply.json["error"]
    assert client("api/file/0/square/overview.jpg").headers["Content-Type"] == "image/jpeg"
    with serve(results[0], slides=[moved]) as other:
        assert other("api/about/0/square").json["image"] is not None


def test_another_file_in_the_slides_place_is_noticed(client, results):
    from pathology.testing.synthetic_slides import ArrayPicture, write_tiff

    write_tiff(
        results[0].parent / "slides" / "other.tiff", ArrayPicture(np.full((2400, 3000, 3), 200, np.uint8)), mpp=0.499
    )
    assert any("not the one that was scored" in warning for warning in client("api/about/0/other").json["warnings"])


def test_reports_are_served_without_rights(shared):
    reply = shared("api/file/0/square/report.html")
    assert reply.status == 200
    assert "sandbox" in reply.headers["Content-Security-Policy"]
    assert "script-src" not in reply.headers["Content-Security-Policy"]


def test_without_the_page_the_address_says_so(shared):
    reply = shared("")
    assert reply.status == 200
    assert b"page is missing" in reply.body


def test_many_connections_at_once(client):
    """More than a browser opens, on one slide: every tile comes, and the same one each time."""
    expected = client("api/tile/0/square/1/1/1").body
    client.server._batch.tiles = type(client.server._batch.tiles)(0)  # no cache: each is made anew
    found = []
    threads = [threading.Thread(target=lambda: found.append(client("api/tile/0/square/1/1/1").body)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 24


def test_strangers_who_stay_silent_shut_nobody_out(client):
    """Only so many connections; the user's is kept, and the oldest stranger gives way."""
    place = ("127.0.0.1", client.server.port)
    with contextlib.closing(http.client.HTTPConnection(*place, timeout=30)) as kept:
        held = [socket.create_connection(place) for _ in range(20)]
        kept.request("GET", f"/{client.token}/api/batch")
        assert kept.getresponse().read()
        held += [socket.create_connection(place) for _ in range(130)]
        try:
            assert client("api/batch").status == 200
            kept.request("GET", f"/{client.token}/api/batch")
            assert kept.getresponse().status == 200
            held[0].settimeout(5)
            assert held[0].recv(1) == b""
            assert len(client.server._server._open) <= 64
        finally:
            for connection in held:
                connection.close()


def test_closing_frees_the_port_and_the_slides(results):
    server = ViewerServer(Batch([results[0]]), None)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)):
        server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    with pytest.raises(ValueError, match="closed"):
        server._batch.tile(0, "square", 0, 0, 0)


def test_a_port_in_use_is_an_error_for_people(results):
    from pathology.errors import OutputError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="cannot use port"):
            ViewerServer(Batch([results[0]]), None, port=taken.getsockname()[1])
