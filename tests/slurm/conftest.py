import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.testing.random_bundle import write_random_bundle

CLUSTER = Path(__file__).with_name("cluster.sh")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("models") / "random-densenet", patch=64)).directory


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A real SLURM cluster of this one machine."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs Debian's slurm-wlm and munge (missing: {', '.join(missing)})")
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd starts jobs as their owners")
    folder = tmp_path_factory.mktemp("slurm")
    # munged refuses a socket below folders that others may not enter.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        subprocess.run([CLUSTER, "up", folder], check=True, timeout=90)
        yield folder
    finally:
        subprocess.run([CLUSTER, "down", folder], check=False, timeout=90)
        del os.environ["SLURM_CONF"]
