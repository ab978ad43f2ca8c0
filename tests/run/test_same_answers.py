"""However a run is cut up, its answers stay the same: batches, workers, order of the questions, padding."""

import json

import pytest

import run_gpu
from tests.support.runs import run_argv
from videobench.data.dataset import qa_file
from videobench.files import write_json

SETS = "MSVD,NBA"


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.param


@pytest.fixture(scope="module")
def run(device, tmp_path_factory, tiny_model_path, qa_root, video_root):
    """Rows by (set, question) of a run with further flags."""

    def run(*flags, qa=qa_root):
        out = tmp_path_factory.mktemp("out")
        more = (f"--dataset_name={SETS}", "--limit=12", f"--device={device}", "--dtype=float32", *flags)
        assert run_gpu.main(run_argv(tiny_model_path, qa, video_root, out, *more)) == 0
        return {
            (name, key): row
            for name in SETS.split(",")
            for key, row in json.loads((out / f"{name}_eval.json").read_text()).items()
        }

    return run


@pytest.fixture(scope="module")
def plain(run):
    return run("--batch_size=1")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, row in found.items():
        other = expected[name]
        for field in ("output_sequence", "num_output_tokens", "pixels_sha256", "prompt_sha256"):
            assert row[field] == other[field], (name, field)
        assert row["letter_logprobs"] == pytest.approx(other["letter_logprobs"], abs=1e-4), name


@pytest.mark.parametrize("flags", [["--batch_size=3"], ["--batch_size=100", "--num_workers=1"]])
def test_batch_size_and_workers(run, plain, flags):
    """Two workers: test_chain.py, whose replies equal those of one plain generate for each question. Batches of several
    videos, as a card takes them: tests/model/test_engine.py, and on the simulated NPU cases_answers.py."""
    assert_same(run(*flags), plain)


def test_order_of_the_questions(run, plain, qa_root, tmp_path):
    (tmp_path / "Eval_QA").mkdir()
    for name in SETS.split(","):
        content = json.loads(qa_file(qa_root, name).read_text())
        first = dict(list(content.items())[:12])
        write_json(qa_file(tmp_path, name), dict(reversed(first.items())))
    assert_same(run(qa=tmp_path), plain)
