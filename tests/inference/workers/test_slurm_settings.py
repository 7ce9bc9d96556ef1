import pytest

from pathology.errors import InputTableError, MissingDependencyError, UsageError
from pathology.inference.workers.slurm import read_slurm_settings, slurm_cluster
from pathology.scoring.batch import score


def test_reads_yaml(tmp_path):
    path = tmp_path / "slurm.yaml"
    path.write_text("jobs: 4\ngpus: 1\npartition: gpu\nprologue: [module load cuda]\n")
    settings = read_slurm_settings(path)
    assert (settings.jobs, settings.gpus, settings.partition) == (4, 1, "gpu")
    assert settings.prologue == ("module load cuda",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs: 0", "jobs: Input should be greater"),
        ("queue: gpu", "queue: Extra inputs"),
        ("- a list", "the file: "),
        ("jobs: [", "cannot read"),
    ],
)
def test_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "slurm.yaml"
    path.write_text(text)
    with pytest.raises(InputTableError, match=said):
        read_slurm_settings(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputTableError, match="file not found"):
        read_slurm_settings(tmp_path / "none.yaml")


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "slurm.yaml"
    path.write_text("jobs: 1")
    with pytest.raises(MissingDependencyError, match="sbatch"), slurm_cluster(read_slurm_settings(path)):
        pass


def test_one_cluster_or_the_other(tmp_path):
    with pytest.raises(UsageError, match="cannot be combined"):
        score(tmp_path, "any", tmp_path / "out", scheduler="tcp://127.0.0.1:1", slurm=tmp_path / "slurm.yaml")
