import pytest

from tests.support.stand_in import make_benchmark


@pytest.fixture
def benchmark(tmp_path):
    """Ten questions of each set on five videos; both sets have files of the same names, as they really do."""
    return make_benchmark(tmp_path, {"NBA": (5, 2), "Driving-decision-making": (5, 2)})
