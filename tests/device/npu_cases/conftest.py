"""Tests that run in a process of their own, on the simulated NPU: test_npu.py starts pytest on cases_*.py here.

transformers decides once in a process whether it runs on an NPU, so these cannot share one with the other tests. A
pytest that has no simulated NPU reads this file, too, but collects no case.
"""

import json

import pytest

import run_npu
from tests.support.npu_cases import LIMIT, MEMORY_BYTES, SET, SIMULATOR


@pytest.fixture(autouse=True)
def as_started(monkeypatch):
    """The card's memory, and no NaN, whatever the test before has set."""
    import torch_npu  # noqa: F401  # as open_device does

    monkeypatch.setenv("INF_NAN_MODE_ENABLE", "0")  # as the launcher exports it
    yield
    SIMULATOR.init(1, MEMORY_BYTES, False)
    SIMULATOR.poison("", 0)


@pytest.fixture
def run(tmp_path, tiny_model_path, qa_root, video_root):
    """(exit status, rows) of run_npu.py on the first questions of a set."""

    def start(*flags, qa=qa_root, name="out"):
        argv = ["--model_path", tiny_model_path, "--Eval_QA_root", qa, "--Eval_Video_root", video_root]
        argv += ["--dataset_name", SET, "--chat_conversation_output_folder", tmp_path / name, "--num_workers", 0]
        status = run_npu.main([str(each) for each in [*argv, "--limit", LIMIT, *flags]])
        return status, json.loads((tmp_path / name / f"{SET}_eval.json").read_text())

    return start
