"""Memory that was freed goes back to the system."""

import os
import subprocess
import sys

import pytest

from pathology.memory import then_gives_back_memory

HELD = """
import ctypes
from pathlib import Path
from pathology.memory import give_back_freed_memory
def resident():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS")).split()[1])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
pieces = [libc.malloc(100_000) for _ in range(1000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[:-1]:
    libc.free(piece)
before = resident()
give_back_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_lies_below_one_small_object_in_use_goes_back():
    freed = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    assert int(freed) > 80_000  # KiB, of 97,656


FAULTS = """
import resource
import numpy as np
from pathology.memory import reuse_freed_memory
reuse_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**18)
before = faults()
for _ in range(20):
    np.ones(2**18)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_a_step_has_freed_is_used_again():
    """With the setting that Dask gives its workers, 2 MB are 512 pages from the system, 20 times over."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    faults = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    assert int(faults.stdout) < 2048


def test_results_and_errors_pass_through():
    @then_gives_back_memory
    def step(number: int) -> int:
        return 10 // number

    assert step(5) == 2
    with pytest.raises(ZeroDivisionError):
        step(0)
