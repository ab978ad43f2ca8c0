"""The verdict's promises on simulated comparisons with Video-Bench's numbers of questions per video."""

import pytest

from benchmarks.verdict_power import BFLOAT16, FLOAT16, LOOKS, MARGIN, NEEDED, Case, looks_line, needed_line, rates
from tests.support.simulated_runs import CANCEL, LOSSES, TEMPERATURE, Loss, World
from videobench.compare.settings import Tolerance
from videobench.compare.verdict import FAIL, INCONCLUSIVE, PASS

pytestmark = pytest.mark.slow
NONE = Tolerance(is_judged=False)


@pytest.mark.parametrize("noise", [FLOAT16, (0.06, 0.001), BFLOAT16])
def test_sound_runs_fail_in_at_most_1_percent(noise):
    assert rates(Case(300, World(noise), is_whole=True), 200).whole[FAIL] <= 2


@pytest.mark.parametrize("kind", ["normal", "heavy", "videos"])
@pytest.mark.parametrize("noise", [(0.03, 0.03), BFLOAT16])
def test_a_thousand_questions_pass_sound_runs(kind, noise):
    found = rates(Case(1000, World(noise, kind=kind), is_whole=True), 60)
    assert found.whole[PASS] >= (45 if (kind, noise) == ("heavy", BFLOAT16) else 54)
    assert found.whole[FAIL] <= 1
    assert found.ok >= 59  # the numbers are called sound
    assert found.covered >= 56


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "tiny leads"])  # contrived
def test_a_loss_of_the_margin_passes_in_at_most_8_percent(kind, scale):
    found = rates(Case(3000, World(FLOAT16, scale), Loss(kind, MARGIN)), 60)
    assert found.interval[PASS] <= 9  # 4.8 are expected of 8 %, more than 9 in 2 of 100 tests
    assert found.covered >= 50


@pytest.mark.parametrize("kind", ["shift", "unreadable", "one set"])
def test_a_loss_of_three_points_fails(kind):
    found = rates(Case(1000, World(FLOAT16), Loss(kind, 3.0)), 40)
    assert found.interval[PASS] == 0
    assert found.interval[FAIL] >= 34


def test_sets_that_cancel_are_never_a_pass():
    found = rates(Case(3000, World(FLOAT16), Loss(CANCEL, 10.0), is_whole=True, tolerance=NONE), 20)
    assert found.whole[INCONCLUSIVE] == 20


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_temperature_is_no_loss(scale):
    assert rates(Case(3000, World(FLOAT16, scale), Loss(TEMPERATURE, 0.2)), 20).whole[FAIL] == 0


@pytest.mark.parametrize(("points", "name"), [(0.0, PASS), (3.0, FAIL)])
def test_a_quantised_port_is_judged_by_its_harm(points, name):
    world = World(BFLOAT16, quantised=0.3)
    found = rates(Case(3000, world, Loss("shift", points), is_whole=True, tolerance=NONE), 20)
    assert found.whole[name] >= 17


@pytest.mark.parametrize("videos", [1, 2])
@pytest.mark.parametrize("loss", [None, Loss("shift", MARGIN)])
def test_one_or_two_videos_decide_nothing(videos, loss):
    assert rates(Case(500 * videos, World(FLOAT16), loss, videos=videos), 20).whole[INCONCLUSIVE] == 20


def test_questions_copied_four_times_are_no_evidence():
    assert rates(Case(2000, World(FLOAT16), Loss("corrupted", MARGIN), copies=4), 60).whole[PASS] <= 6


@pytest.mark.parametrize("case", LOOKS[:2], ids=lambda case: case.loss.kind)
def test_five_looks_pass_a_loss_of_the_margin_rarely(case):
    assert float(looks_line(case, 60).split("|")[5]) <= 12


@pytest.mark.parametrize("case", NEEDED[:3], ids=str)
def test_the_number_of_questions_needed_suffices(case):
    assert float(needed_line(case, 60).split("|")[-2]) >= 80
