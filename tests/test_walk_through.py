"""From the README's four steps to the ends of INCONCLUSIVE and of FAIL, on a simulated NPU, by pasting what is printed
and nothing else, on a path with a space, a quote and Chinese characters."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch

from tests.support.paths import ASSETS, ROOT

BUILT_FOR = "2.13.0"  # the simulated NPU uses internal headers of this release

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed; it builds the simulated NPU"),
    pytest.mark.skipif(
        torch.__version__.split("+")[0] != BUILT_FOR, reason=f"the simulated NPU is built for torch {BUILT_FOR}"
    ),
]


@pytest.fixture(scope="module")
def paste(tmp_path_factory):
    """Runs a command in bash, in the suite's folder, on a machine with one simulated NPU; what it printed."""
    folder = tmp_path_factory.mktemp("new") / "新 用户's 套件"
    shutil.copytree(ROOT / "videobench", folder / "videobench", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [each for suffix in ("py", "sh", "txt") for each in ROOT.glob(f"*.{suffix}")]:
        shutil.copy(path, folder)
    shutil.copytree(ASSETS / "egs", folder / "egs")
    shutil.copytree(ASSETS / "tiny-llava-next-video", folder / "LLaVA-NeXT-Video-7B-hf")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ASCEND_", "INF_NAN_", "CUDA_"))}
    own = {"PYTHONPATH": str(ROOT / "tests/sim_npu"), "ASCEND_RT_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1"}
    own["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    own["SIM_NPU_TMPDIR"] = tempfile.gettempdir()

    def run(command, status=0, **environment):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=kept | own | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"$ {command}\n{done.stdout}{done.stderr}")
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def steps():
    """The README's commands, for a sample as small as the data."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^## The four steps\n\n```shell\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    blocks = [re.sub(r"^#.*\n", "", each).strip() for each in block.split("\n\n")]
    sample, npu, gpu, compare = (each.replace("--nums 1000", "--nums 100") for each in blocks)
    return [sample, npu, gpu, f"{compare} --margin 2.5"]


def printed(output):
    """The commands of an output, as they stand there: whoever copies them takes the indented lines."""
    lines = re.findall(r"^    .*\n(?:      .*\n)*", f"{output}\n", re.MULTILINE)
    return [each.strip() for each in lines]


def summary(output):
    return output.split("\n\n")[0]


@pytest.fixture(scope="module")
def first(paste, steps):
    """What the comparison of the README's four steps says."""
    *_, compared = [paste(each) for each in steps]
    return summary(compared)


def test_a_broken_device_is_led_to_its_module_and_a_sound_one_to_what_else_there_is(paste, first, steps):
    assert first.startswith("INCONCLUSIVE")
    wrong = {"SIM_NPU_WRONG": "polarity"}
    _, npu, _, compare = [each.replace("Chat_results_npu", "Chat_results_wrong") for each in steps]
    paste(npu, **wrong)
    failed = summary(paste(compare))
    assert failed.startswith("FAIL: numerically broken")
    [check] = printed(failed)
    assert "scaled_dot_product_attention" in paste(check, status=1, **wrong)
    agreed = paste(check)  # as if the fault were not in the modules
    verify, one_card, install, repeat, export = printed(agreed[agreed.index("all agrees") :])
    assert install.endswith(" -m pip install transformers==RELEASE")
    assert "the sample is whole" in paste(verify)
    for command in (one_card, repeat):
        assert "answered 100, failed 0" in paste(command)
    assert "100 requests" in paste(export)


def test_too_few_questions_become_enough_in_one_round(paste, first):
    assert first.startswith("INCONCLUSIVE: too few questions to show 2.5 points")
    commands = printed(first)
    assert len(commands) == 4
    outputs = [paste(each) for each in commands]
    assert all("100 kept" in each for each in outputs[1:3])
    final = summary(outputs[-1])
    assert final.startswith("PASS")
    assert printed(final) == []


def test_a_side_that_was_not_enlarged_is_led_to_its_run(paste, first, steps):
    paste(steps[0].replace("--nums 100", "--nums 280"))
    paste(steps[1])
    lacking = summary(paste(steps[3]))
    assert "the GPU's run lacks " in lacking.splitlines()[0]
    run, compare = printed(lacking)
    paste(run)
    assert "run lacks" not in paste(compare)
