"""``pathology methylation``, as a user meets it."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pathology.cli.methylation import app
from pathology.errors import BundleError, InputTableError, UsageError
from pathology.omics.activity import ActivityNetwork, load_activity_weights, predict_activity, save_activity_weights
from pathology.omics.methylation import promoter_features, read_methylation, read_promoters, scale_features


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def sample(tmp_path):
    """Calls on one chromosome; sixty promoters there and one on another."""
    rng = np.random.default_rng(0)
    calls, promoters = tmp_path / "calls.tsv", tmp_path / "promoters.tsv"
    pd.DataFrame(
        {"chrom": "chr1", "pos": np.arange(1_000, 2_000_000, 150), "mval": rng.normal(size=13_327).round(3)}
    ).to_csv(calls, sep="\t", index=False)
    start = np.sort(rng.integers(30_000, 1_900_000, 61))
    pd.DataFrame(
        {
            "EnsmblID_T": [f"T{i}" for i in range(61)],
            "Strand": rng.choice(["+", "-"], 61),
            "Chr": ["chr1"] * 60 + ["chr7"],
            "Start": start,
            "End": start + 20_000,
        }
    ).to_csv(promoters, sep="\t", index=False)
    return calls, promoters


@pytest.fixture
def weights(tmp_path, write_keras_weights):
    return write_keras_weights(tmp_path / "w.h5", seed=1)


def test_predict_writes_every_promoter(sample, weights, tmp_path):
    calls, promoters = sample
    result = run("predict", calls, promoters, "-w", weights, "-o", tmp_path / "out" / "marks.csv")
    assert result.exit_code == 0, result.output
    assert "61 promoters, custom weights." in result.output
    assert "1 of them have no methylation call in any of their 40 windows" in result.output
    found = pd.read_csv(tmp_path / "out" / "marks.csv")
    table = read_promoters(promoters)
    features = scale_features(promoter_features(table, read_methylation(calls)))
    expected = predict_activity(load_activity_weights(weights), features)
    assert found["enrichment"].to_numpy() == pytest.approx(expected, abs=2e-6)
    assert found["windows_with_calls"].iloc[-1] == 0
    assert found["windows_with_calls"].iloc[:60].min() > 20


def test_the_published_weights_are_named(sample, data_dir, tmp_path):
    calls, promoters = sample
    published = data_dir / "methylation" / "M2A_H3K27ac_Model_V2.h5"
    result = run("predict", calls, promoters, "-w", published, "-o", tmp_path / "marks.csv")
    assert result.exit_code == 0, result.output
    assert "H3K27ac, published weights" in result.output


def test_transfer_learns_and_predict_takes_its_weights(sample, weights, tmp_path):
    calls, promoters = sample
    table = read_promoters(promoters)
    features = scale_features(promoter_features(table, read_methylation(calls)))
    signal = tmp_path / "signals.tsv"
    known = pd.DataFrame(
        {"EnsmblID_T": table["EnsmblID_T"], "chip": 100 * features[:, 1, :, 0].mean(axis=1), "control": 10.0}
    )
    known.sample(frac=1, random_state=0).to_csv(signal, sep="\t", index=False)
    out = tmp_path / "own" / "w.safetensors"
    result = run("transfer", calls, promoters, signal, "-w", weights, "-o", out)
    assert result.exit_code == 0, result.output
    assert "49 training promoters, 12 held out" in result.output
    before, after = (float(v.rstrip(",;")) for v in result.output.split("error ")[1].split()[0:3:2])
    assert after < before
    assert run("predict", calls, promoters, "-w", out, "-o", tmp_path / "m.csv").exit_code == 0


def test_weights_come_back_as_they_were_written(tmp_path):
    network = ActivityNetwork().eval()
    save_activity_weights(network, tmp_path / "w.safetensors")
    x = np.random.default_rng(0).random((5, 2, 20, 4))
    copy = load_activity_weights(tmp_path / "w.safetensors")
    assert np.array_equal(predict_activity(copy, x), predict_activity(network, x))
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match="not weights of MethylationToActivity"):
        load_activity_weights(tmp_path / "w.safetensors")


def test_mistakes_name_what_is_wrong(sample, weights, tmp_path):
    calls, promoters = sample
    signal = tmp_path / "signals.tsv"
    signal.write_text("EnsmblID_T\tchip\tcontrol\nT0\t1\t2\nT0\t1\t2\n")
    to = ("-w", weights, "-o", tmp_path / "o.safetensors")
    twice = run("transfer", calls, promoters, signal, *to)
    assert isinstance(twice.exception, InputTableError)
    assert "row 3: duplicate transcript 'T0'" in str(twice.exception)
    signal.write_text("EnsmblID_T\tchip\tcontrol\nT0\t1\t2\n")
    missing = run("transfer", calls, promoters, signal, *to)
    assert "60 transcripts have no signal, such as 'T1'" in str(missing.exception)
    signal.write_text("EnsmblID_T\tchip\tcontrol\nT0\thigh\t2\n")
    assert "row 2: 'chip' is 'high'" in str(run("transfer", calls, promoters, signal, *to).exception)
    other = run("transfer", calls, promoters, signal, "-w", weights, "-o", tmp_path / "o.h5")
    assert isinstance(other.exception, UsageError)
