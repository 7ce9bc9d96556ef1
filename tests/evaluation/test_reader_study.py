import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.errors import InputTableError
from pathology.evaluation.reader_study import read_reader_study


def write(path, rows, head="reader,case,truth,unaided,aided"):
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    made = []
    for reader in "abcde":
        for case in range(20):
            truth = ("LMS", "UPS")[case % 2]
            other = ("UPS", "LMS")[case % 2]
            without = truth if random.random() < 0.5 else other
            aided = truth if random.random() < 0.85 else other
            made.append((reader, f"c{case}", truth, without, aided))
    return made


def test_arithmetic_by_hand_and_by_scipy(tmp_path, rows):
    study = read_reader_study(write(tmp_path / "readers.csv", rows[::-1]), resamples=200)
    right = np.array([[row[3] == row[2], row[4] == row[2]] for row in rows], float).reshape(5, 20, 2).mean(axis=1)
    assert (study.readers, study.cases) == (5, 20)
    assert study.unaided.value == pytest.approx(right[:, 0].mean())
    assert study.aided.value == pytest.approx(right[:, 1].mean())
    assert study.unaided_sd == pytest.approx(right[:, 0].std(ddof=1))
    assert study.t_test.p == pytest.approx(stats.ttest_rel(right[:, 1], right[:, 0]).pvalue)
    assert study.gain.value == pytest.approx((right[:, 1] - right[:, 0]).mean())


def test_the_command(tmp_path, rows):
    out = CliRunner().invoke(app, ["readers", str(write(tmp_path / "readers.csv", rows))])
    assert out.exit_code == 0
    assert "5 readers, 20 cases" in out.output
    assert "paired t test" in out.output


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: [*r, r[0]], "reader a read case c0 twice"),
        (lambda r: r[1:], "reader a did not read case c0"),
        (lambda r: [(*r[0][:2], "SS", *r[0][3:]), *r[1:]], "case c0 has two different truth values"),
        (lambda r: [(*r[0][:3], "", r[0][4]), *r[1:]], "'unaided' is empty"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, change, what):
    with pytest.raises(InputTableError, match=what):
        read_reader_study(write(tmp_path / "readers.csv", change(rows)))


def test_a_missing_column_is_named(tmp_path, rows):
    with pytest.raises(InputTableError, match="no column 'aided'"):
        read_reader_study(write(tmp_path / "r.csv", [r[:4] for r in rows], "reader,case,truth,unaided"))
    with pytest.raises(InputTableError, match="file not found"):
        read_reader_study(tmp_path / "none.csv")
