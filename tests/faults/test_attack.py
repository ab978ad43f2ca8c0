"""The attack of tests/attack.py with small numbers."""

import sys

import pytest

from tests.support.attacks import Work

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("attack", "number"), [("kills", 6), ("disks", 6), ("videos", 60)])
def test_an_attack_holds(run_command, attack, number):
    numbers = {"kills": 0, "disks": 0, "videos": 0} | {attack: number}
    done = run_command(sys.executable, "tests/attack.py", *(f"--{name}={each}" for name, each in numbers.items()))
    if "no right to mount" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{attack}: {number} of {number} held" in done.stdout


def test_an_attack_sees_what_does_not_hold(tmp_path):
    work = Work(tmp_path / "run", "run_gpu")
    assert work.fault_after() == ""
    work.expected |= {"another": ["A"]}
    assert work.fault_after() == "another result than undisturbed"
    work = Work(tmp_path / "sample", "extract_dataset")
    work.out.mkdir()
    (work.out / "half.json").write_text("{")
    assert work.fault_after() == "a file that was not whole had its name"
