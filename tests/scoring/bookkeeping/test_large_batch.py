"""A share of the benchmark of large batches: bookkeeping per slide does not grow with the batch."""

from benchmarks import batches
from pathology.scoring.bookkeeping.batch_files import BatchFiles


def test_tables_are_written_at_intervals_and_nothing_is_left(tmp_path, monkeypatch):
    written = []
    write = BatchFiles.write_tables
    monkeypatch.setattr(BatchFiles, "write_tables", lambda self: (written.append(len(self.results)), write(self)))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = batches.measure(60, tmp_path, kind="stubbed")
    # The first slide, the end of the scoring, the end of the run; more only if it takes longer than ten seconds.
    assert len(written) <= 3 + found["seconds in all"] / 10
    assert found["slides"] == 60
    assert found["descriptors of all processes"]["ratio"] == 1
    assert found["temporary folders left behind"] == found["unfinished folders left behind"] == 0
    lines = (tmp_path / "out" / "journal.jsonl").read_bytes().split(b"\n")
    assert len([line for line in lines if line]) == 60
