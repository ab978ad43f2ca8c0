"""How far ahead of its device a replica claims videos."""

from types import SimpleNamespace

import pytest

from videobench.jobs.job import WorkQueue


@pytest.mark.parametrize(
    ("replicas", "claimed", "held"),
    [
        pytest.param(1, 0, 120, id="alone"),
        pytest.param(2, 0, 10, id="at-the-beginning"),
        pytest.param(2, 60, 5, id="half-way"),
        pytest.param(2, 118, 1, id="near-the-end"),
        pytest.param(2, 120, 1, id="at-the-end"),
    ],
)
def test_a_replica_holds_less_the_less_is_left(replicas, claimed, held):
    """A sixth of its even part of 120 videos, so that all replicas end together."""
    job = SimpleNamespace(num_replicas=replicas, num_claimed=claimed)
    assert WorkQueue(job, [1.0] * 120).most_held() == held
