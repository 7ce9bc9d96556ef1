"""Plain words: every number is traced, the score equals the formula, and a language model is not trusted."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pathology.patient.language_model import LanguageModelSettings, objections, reword
from pathology.patient.patient_summary import numbers_in, summarise_record, untraced_numbers
from pathology.patient.readability import readability, syllables
from pathology.patient.record import ImagingStudy, PatientRecord, PatientSlide, SurvivalPrediction


@pytest.fixture
def record():
    return PatientRecord(
        patient_id="STS-4711",
        clinical={
            "histology": "Leiomyosarcoma",
            "histotype": "LMS",
            "age_years": 59.0,
            "size_cm": 11.6,
            "grade": "high",
            "site": "left thigh",
            "diagnosis_date": "2020-01-31",
        },
        slides=(
            PatientSlide(slide_id="a", status="scored", prediction="LMS", probabilities={"LMS": 0.873, "UPS": 0.127}),
            PatientSlide(slide_id="b", status="abstained"),
            PatientSlide(slide_id="c", status="failed"),
        ),
        imaging=(ImagingStudy(study="x", findings={"volume": 3.0}),),
        survival=(
            SurvivalPrediction(
                model="m",
                kind="cox",
                outcome="os",
                covariates=("age",),
                risk=0.1,
                group="high",
                survival={"3 years": 0.715},
                trained_on="197 patients with 73 events",
            ),
        ),
    )


def test_every_number_is_traced_to_the_record(record):
    summary = summarise_record(record)
    variable = " ".join(s.text for body in summary.sections.values() for s in body if s.facts)
    assert untraced_numbers(variable, summary.facts) == set()
    fixed = " ".join(s.text for body in summary.sections.values() for s in body if not s.facts)
    assert numbers_in(fixed) == set()
    values = {f.path: f.value for f in summary.facts}
    assert values["clinical.size_cm"] == "11.6"
    assert values["slides[0].probabilities.LMS (of 100)"] == "87 of 100"
    assert values["survival[0].survival.3 years (of 100)"] == "72 of 100, 3 years"
    numbers = [n for body in summary.sections.values() for s in body for n in s.facts]
    assert numbers == [f.number for f in summary.facts]


def test_the_text_reads_well_and_advises_nothing(record):
    summary = summarise_record(record)
    assert summary.readability.reading_ease > 60
    assert summary.readability.grade < 8
    text = summary.text()
    assert "gives no advice on treatment" in text
    assert not re.search(r"you should|we recommend|chemotherapy|radiation", text.lower())
    assert record.patient_id not in text
    assert "2020" not in text
    assert objections(text, summary) == ()


def test_what_is_not_known_is_not_mentioned():
    summary = summarise_record(PatientRecord(patient_id="x"))
    assert list(summary.sections) == ["About this page"]
    assert summary.facts == ()


def test_dividing_cells_are_counted_with_their_source(record):
    counted = PatientSlide(slide_id="b", status="scored", findings={"mitoses.total": 48.0})
    summary = summarise_record(record.model_copy(update={"slides": (counted,)}))
    assert "It counted 48 cells that seem to be dividing." in summary.text()
    assert {f.path: f.value for f in summary.facts}["slides[0].findings.mitoses.total"] == "48"


def test_a_strange_slide_is_said_to_be_one(record):
    strange = PatientSlide(slide_id="b", status="abstained", out_of_domain=True)
    assert (
        "unlike those the program learnt from"
        in summarise_record(record.model_copy(update={"slides": (strange,)})).text()
    )
    assert "not sure enough" in summarise_record(record).text()


def test_no_letter_to_the_dead(record):
    for change in ({"status": "dead"}, {"os_event": 1.0}):
        dead = record.model_copy(update={"clinical": {**record.clinical, **change}})
        assert "has died" in summarise_record(dead).text()
        assert summarise_record(dead).facts == ()


def test_numbers_in_many_spellings():
    assert numbers_in("11.6 cm, 1,250 cells, twelve or 0.50; 3rd") == {"11.6", "1250", "12", "0.5", "3"}
    assert numbers_in("half of two") == {"0.5", "2"}
    assert numbers_in("no one knows") == set()


class TestReadability:
    def test_equals_the_formulas(self):
        found = readability("The cat sat on the mat. The dog ran.")
        assert (found.words, found.sentences, found.syllables) == (9, 2, 9)
        assert found.reading_ease == pytest.approx(206.835 - 1.015 * 4.5 - 84.6)
        assert found.grade == pytest.approx(0.39 * 4.5 + 11.8 - 15.59)

    @pytest.mark.parametrize(
        ("word", "count"),
        [("cancer", 2), ("people", 2), ("microscope", 3), ("research", 2), ("computer", 3), ("looked", 1),
         ("needed", 2), ("little", 2), ("table", 2), ("sarcoma", 3), ("leiomyosarcoma", 7), ("diagnosis", 4),
         ("treatment", 2),
         ("years", 1), ("the", 1), ("boxes", 2), ("changes", 2), ("42", 1), ("area", 3), ("science", 2)],
    )  # fmt: skip
    def test_syllables(self, word, count):
        assert syllables(word) == count


@pytest.fixture
def server():
    """A language model on this machine whose answer the test sets."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        answer = ""
        status = 200

        def do_POST(self):
            asked.append(
                (self.path, self.headers.get("Authorization"), self.rfile.read(int(self.headers["Content-Length"])))
            )
            body = json.dumps({"choices": [{"message": {"content": type(self).answer}}]}).encode()
            self.send_response(type(self).status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield Handler, LanguageModelSettings(address=f"http://127.0.0.1:{httpd.server_port}/v1", model="m"), asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


class TestLanguageModel:
    def test_a_good_text_is_taken(self, record, server):
        handler, settings, asked = server
        handler.answer = "What your records say\nYour tumour was 11.6 cm wide. You were 59.\n"
        summary = summarise_record(record)
        new = reword(record, summary, settings, key="secret")
        assert new.source == "m"
        assert new.text() == "What your records say\nYour tumour was 11.6 cm wide. You were 59."
        assert new.facts == summary.facts
        path, authorisation, body = asked[0]
        assert (path, authorisation) == ("/v1/chat/completions", "Bearer secret")
        assert record.patient_id not in body.decode()
        assert "2020" not in body.decode()

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            ("Your tumour was 12 cm wide.", r"numbers not in the record \(12\)"),
            ("You have thirteen slides.", r"numbers not in the record \(13\)"),
            ("You should take chemotherapy.", "treatment advice"),
            ("We recommend a second scan.", "treatment advice"),
            ("Consider radiation.", "treatment advice"),
            ("word " * 2000, "twice as long"),
            ("  ", "returned no text"),
        ],
    )
    def test_a_bad_text_is_not(self, record, server, answer, why):
        handler, settings, _ = server
        handler.answer = answer
        summary = summarise_record(record)
        kept = reword(record, summary, settings)
        assert kept.sections == summary.sections
        assert kept.source == "templates"
        assert re.search(why, kept.notes[0])

    def test_silence_leaves_the_templates(self, record, server):
        handler, settings, _ = server
        handler.status = 500
        assert "did not answer" in reword(record, summarise_record(record), settings).notes[0]

    def test_an_id_in_the_text_is_never_sent(self, record, server):
        _, settings, asked = server
        named = record.model_copy(update={"patient_id": "left thigh"})
        assert "was not sent" in reword(named, summarise_record(named), settings).notes[0]
        assert asked == []

    def test_only_web_addresses(self):
        with pytest.raises(ValueError, match="expected http"):
            LanguageModelSettings(address="file:///etc/passwd", model="m")
