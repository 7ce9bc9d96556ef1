"""Plain words: every number is traced, the score equals the formula, and a language model is not trusted."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pathology.patient.clinical import read_clinical
from pathology.patient.faithful import SYNONYMS, objection
from pathology.patient.identity import Pseudonyms
from pathology.patient.language_model import LanguageModelSettings, reword
from pathology.patient.pages import summary_page, write_folder
from pathology.patient.patient_summary import ABOUT, numbers_in, summarise_record, untraced_numbers
from pathology.patient.readability import readability, syllables
from pathology.patient.record import ImagingStudy, PatientRecord, PatientSlide, SurvivalPrediction, build_records


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


@pytest.mark.parametrize(
    "values",
    [
        {"status": "dead"},
        {"os_event": 1.0},
        {"dss_event": 1.0},
        {"death_date": "2021-05-01"},
        {"deceased": "yes"},
        {"days_to_death": 512.0},
        {"OS_STATUS": "1:DECEASED"},
        {"cause_of_death": "sarcoma"},
        {"outcome": "DOD"},
        {"remarks": "died at home"},
        {"status": "alive", "dss_event": 1.0},
    ],
)
def test_no_letter_to_the_dead_whatever_field_says_so(record, values):
    dead = record.model_copy(update={"clinical": {**record.clinical, **values}})
    assert summarise_record(dead) is None


@pytest.mark.parametrize(
    "values",
    [
        {"status": "alive with disease", "os_event": 0.0, "dss_event": 0.0, "pfi_event": 1.0},
        {"deceased": "no", "death": 0.0, "cause_of_death": None},
        {"sex": "d"},
    ],
)
def test_the_living_get_theirs(record, values):
    assert summarise_record(record.model_copy(update={"clinical": {**record.clinical, **values}})) is not None


def test_a_patient_who_died_since_the_last_run_keeps_no_page(tmp_path):
    table = tmp_path / "clinical.csv"
    for died in (0, 1):
        table.write_text(f"patient_id,age,DSS,DSS.time\nP1,54,{died},400\n")
        # A pseudonymised record drops the date, not the fact.
        records, report = build_records(clinical=read_clinical(table), pseudonyms=Pseudonyms(b"k" * 32))
        write_folder(tmp_path / "out", records, report, [summarise_record(r) for r in records])
        folder = tmp_path / "out" / "patients" / records[0].folder
        assert (folder / "summary.html").exists() == (not died)
    page = (folder / "patient.html").read_text()
    assert "No patient summary: the record says that the patient has died (dss_event)" in page
    assert "summary.html" not in page


def test_pseudonyms_keep_the_fact_of_death_without_its_date(tmp_path):
    table = tmp_path / "clinical.csv"
    table.write_text("patient_id,age,death_date\nP1,54,2021-05-01\n")
    records, _ = build_records(clinical=read_clinical(table), pseudonyms=Pseudonyms(b"k" * 32))
    assert "death_date" not in records[0].clinical
    assert summarise_record(records[0]) is None


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
    """A language model on this machine; the test sets what it answers to each sentence."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        answer = staticmethod(lambda sentence: sentence)
        status = 200

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers.get("Authorization"), body))
            answer = type(self).answer(json.loads(body)["messages"][1]["content"])
            body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
            self.send_response(type(self).status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    yield Handler, LanguageModelSettings(address=f"http://127.0.0.1:{httpd.server_port}/v1", model="m"), asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


SAME = {
    "The tumour was 11.6 cm across at its widest.": "At its widest, the lump was 11.6 centimetres across.",
    "You were 59 years old when it was found.": "When it was discovered, you were 59 years old.",
    "Of 100 people with records like yours, about 72 were alive after 3 years.": (
        "After 3 years, roughly 72 were living of 100 persons with records like yours."
    ),
    "The grade says how fast the cells seem to grow.": "The grade states how quickly the cells appear to grow.",
    "This is not a diagnosis.": "That is not a diagnosis.",
}


def attacks(s):
    """Return rewritings of a sentence that say something else."""
    numbers = re.findall(r"\d+(?:\.\d+)?", s)
    found = [
        f"{s} It has spread to your lungs.",
        f"{s[:-1]}, and it has spread to your lungs.",
        f"{s[:-1]} and has come back.",
        f"{s[:-1]}; you are dying.",
        "You have only a few months left.",
        "Of 100 people with records like yours, about 72 had died after 3 years.",
        "You should ask for chemotherapy.",
        f"{s} You need surgery.",
        f"{s[:-1]}, so please see your doctors soon.",
        "This is nothing to worry about.",
        f"Never mind: {s}",
        f"It is not true that {s[0].lower()}{s[1:]}",
        re.sub(r"\b(is|was|were|says|looked|found|looks|places|describes|shows|gave|counted)\b", r"\1 not", s, count=1),
        re.sub(r" (not|no|only)\b|\bNobody\b", "", s),
        "Le compte rendu dit que la tumeur est grande.",
        "Der Tumor ist nicht gestreut.",
        s.replace("a", "а"),  # a Cyrillic letter
        s.replace(" ", "\u200b ", 1),
        f"<b>{s}</b>",
        f"{s[:-1]}?",
        f"“{s}”",
        f"Dr Smith says: {s}",
        s.replace("left", "right").replace("high", "low").replace("higher", "lower"),
        s.replace("about ", "").replace("seem to ", "").replace("most ", ""),
        s.replace(" were ", " will be ").replace(" was ", " is ").replace(" is ", " was ", 1),
        "You were 11.6 years old when the tumour of 59 cm was found.",
        *(re.sub(rf"(?<![\d.]){re.escape(n)}(?![\d.])", str(round(float(n) + 1, 1)), s) for n in numbers),
        *(re.sub(rf"(?<![\d.]){re.escape(n)}(?![\d.])", "seventy", s) for n in numbers),
        *([s.replace("cm", "mm")] if "cm" in s else []),
    ]
    if len(numbers) > 1:
        first, *_, last = numbers
        found.append(s.replace(first, "#").replace(last, first).replace("#", last))
        found.append(" ".join(reversed(s[:-1].split())) + ".")
    return [a for a in found if a != s]


class TestLanguageModel:
    def test_what_says_the_same_is_taken(self, record, server):
        handler, settings, asked = server
        handler.answer = staticmethod(lambda s: SAME.get(s, "Rejected."))
        summary = summarise_record(record)
        new = reword(record, summary, settings, key="secret")
        before = [s for body in summary.sections.values() for s in body]
        after = [s for body in new.sections.values() for s in body]
        assert {b.text: a.text for b, a in zip(before, after, strict=True) if a != b} == SAME
        assert [s.facts for s in after] == [s.facts for s in before]
        assert (new.source, new.facts) == ("m", summary.facts)
        assert f"5 of {len(asked)} sentences were reworded" in new.notes
        assert "Rejected" not in new.text() + " ".join(new.notes)
        assert all(call[:2] == ("/v1/chat/completions", "Bearer secret") for call in asked)
        sent = b" ".join(body for *_, body in asked).decode()
        assert record.patient_id not in sent
        assert "2020" not in sent
        assert "for research only" not in sent  # the fixed section stays as it is

    def test_300_adversarial_rewordings_do_not_reach_the_page(self, record, server):
        handler, settings, _ = server
        summary = summarise_record(record)
        by_sentence = {s.text: attacks(s.text) for h, body in summary.sections.items() if h != ABOUT for s in body}
        total = {(s, a) for s, found in by_sentence.items() for a in found}
        assert len(total) >= 300
        tried = set()
        for number in range(max(map(len, by_sentence.values()))):

            def answer(sentence, number=number):
                found = by_sentence[sentence]
                tried.add((sentence, found[number % len(found)]))
                return found[number % len(found)]

            handler.answer = staticmethod(answer)
            page = reword(record, summary, settings)
            assert page.sections == summary.sections
            assert page.source == "templates"
            assert "lung" not in summary_page(page)
        assert tried == total

    @pytest.mark.parametrize("answer", ["", "  ", None, 3, ["a"], {"text": "a"}])
    def test_an_answer_that_is_no_sentence_is_not_taken(self, record, server, answer):
        handler, settings, _ = server
        handler.answer = staticmethod(lambda s: answer)
        summary = summarise_record(record)
        assert reword(record, summary, settings).sections == summary.sections

    def test_silence_leaves_the_templates_after_one_request(self, record, server):
        handler, settings, asked = server
        handler.status = 500
        assert "did not answer" in " ".join(reword(record, summarise_record(record), settings).notes)
        assert len(asked) == 1

    def test_an_id_in_the_text_is_never_sent(self, record, server):
        _, settings, asked = server
        named = record.model_copy(update={"patient_id": "left thigh"})
        assert "was not sent" in " ".join(reword(named, summarise_record(named), settings).notes)
        assert not any(b"left thigh" in body for *_, body in asked)

    def test_only_web_addresses(self):
        with pytest.raises(ValueError, match="expected http"):
            LanguageModelSettings(address="file:///etc/passwd", model="m")


def test_a_synonym_has_one_meaning():
    forms = [form for group in SYNONYMS for form in group]
    assert len(forms) == len(set(forms))


def test_objections_say_what_is_wrong():
    sentence = "Of 100 people with records like yours, about 72 were alive after 3 years."
    assert objection("Of 72 people with records like yours, about 100 were alive after 3 years.", sentence) == (
        "'100' no longer stands before 'people'"
    )
    assert objection("Of 100 people with records like yours, 72 were alive after 3 years.", sentence) == (
        "'about' is left out"
    )
    assert objection("Of 100 people with records like yours, about 72 are alive after 3 years.", sentence) == (
        "it speaks of another time"
    )
