"""A small share of ``make torture``: the same inputs and faults, fewer of them."""

import random

import pytest

from benchmarks.torture.faults import FAULTS, torture_fault
from benchmarks.torture.inputs import MOST_MIB, MOST_SECONDS, torture_inputs
from benchmarks.torture.mutate import mutated


def test_the_same_seed_gives_the_same_input():
    data = bytes(range(256)) * 20
    first = [mutated(data, random.Random(f"3 {number}")) for number in range(50)]
    assert first == [mutated(data, random.Random(f"3 {number}")) for number in range(50)]
    assert len(set(first)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("slides", [True, False])
def test_mutated_inputs_are_read_or_refused(slides):
    outcomes = list(torture_inputs(1, range(150), slides=slides))
    assert [outcome.number for outcome in outcomes] == list(range(150))
    assert [outcome for outcome in outcomes if outcome.what not in ("read", "refused")] == []
    assert max(outcome.seconds for outcome in outcomes) < MOST_SECONDS
    assert max(outcome.mib for outcome in outcomes) < MOST_MIB


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_system_call_that_fails_leaves_nothing_half_written(tmp_path, fault, after):
    assert torture_fault(fault, after, tmp_path) in ("ended well", "refused")
