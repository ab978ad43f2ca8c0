"""The flags of run_gpu.py and run_npu.py: which videos, sets and device they ask for, and how a wrong one is told."""

import pytest

import run_gpu
import run_npu
from tests.support.forks import call_script, fork
from tests.support.runs import SET, results
from videobench.cli import run_script


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("videos/Eval_video/MSVD", id="the-set's-own-folder"),
        pytest.param("videos/Eval_video/msvd", id="spelt-otherwise"),
        pytest.param("videos/Eval_video", id="the-folder-of-the-sets"),
    ],
)
def test_the_folder_of_videos_may_name_the_set(small, tiny_model_path, path):
    """As the NPU launcher calls it: the set is named by the folder, or by --dataset_name."""
    argv = [f"--model_path={tiny_model_path}", f"--Eval_QA_root={small}/qa", f"--image_or_video_path={small}/{path}"]
    argv += [f"--chat_conversation_output_folder={small}/out", "--device=cpu", "--num_workers=0", "--limit=2"]
    if path.endswith("Eval_video"):
        argv += ["--dataset_name", SET]
    assert run_npu.main(argv) == 0
    assert len(results(small)) == 2


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        pytest.param(["--nope"], "unrecognized arguments: --nope; ", id="unknown-flag"),
        pytest.param(["--num_frames", "0"], "--num_frames must be at least 1", id="no-frames"),
        pytest.param(
            ["--check_model", "--dry_run"], "argument --dry_run: not allowed with argument --check_model", id="two"
        ),
        pytest.param(["--num_frames", "x"], "invalid int value: 'x'", id="no-number"),
        pytest.param(["--dataset_name", "Kinetics"], "unknown data set 'Kinetics'", id="unknown-set"),
        pytest.param(["--model_path", "nowhere"], "nowhere: not a folder", id="no-checkpoint"),
        pytest.param(["--Eval_Video_root", "nowhere"], "nowhere: no such folder of videos", id="no-videos"),
        pytest.param(["--image_or_video_path", "x"], "not allowed with", id="two-places-of-videos"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(flags, argv, found, capsys):
    assert run_script(lambda: run_gpu.main([*flags, *argv])) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert found in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_npu_without_an_npu_ends_with_2_and_gpu_without_cuda_says_that_it_runs_on_the_cpu(tmp_path, flags):
    at = flags.index("--device")
    without_device = flags[:at] + flags[at + 2 :]
    npu, gpu = tmp_path / "npu", tmp_path / "gpu"
    process = fork(call_script, "run_npu", without_device, err=npu)
    process.join()
    assert process.exitcode == 2
    assert npu.read_text().startswith("error: device npu: ")
    assert npu.read_text().count("\n") == 1
    process = fork(call_script, "run_gpu", [*without_device, "--limit", "1"], err=gpu, CUDA_VISIBLE_DEVICES="")
    process.join()
    assert process.exitcode == 0
    assert gpu.read_text().startswith("WARNING: no CUDA device is visible: running on the CPU")
