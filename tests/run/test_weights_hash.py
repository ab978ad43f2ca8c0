"""On each machine one process hashes the weights for all; a reply is stored only if all machines have the same."""

from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from videobench.errors import InputError
from videobench.jobs.job import Job
from videobench.model import checkpoint as weights
from videobench.run.journals import start_hashing_weights


@pytest.fixture
def checkpoint(tmp_path):
    def make(name, content=b"weights"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        return SimpleNamespace(path=folder, weights=SimpleNamespace(paths=[folder / "model.safetensors"]))

    return make


@pytest.fixture
def processes(monkeypatch):
    """Four on two machines: (0, 1) and (2, 3). None has ended the job."""
    monkeypatch.setattr(Job, "check_others", lambda _: None)
    store = HashStore()
    return [Job(process, 4, process % 2, store) for process in range(4)]


def test_one_process_of_each_machine_hashes_the_weights(checkpoint, processes, monkeypatch):
    hashed, read = [], weights.sha256_of_file
    monkeypatch.setattr(weights, "sha256_of_file", lambda path: hashed.append(path) or read(path))
    here, there = checkpoint("here"), checkpoint("there")
    waits = [start_hashing_weights(job, here if job.process < 2 else there, []) for job in processes]
    assert len({wait() for wait in waits}) == 1
    assert sorted(hashed) == [*here.weights.paths, *there.weights.paths]
    assert {wait() for wait in waits} == {waits[0]()}


def test_other_weights_on_another_machine_are_refused_there(checkpoint, processes):
    here, there = checkpoint("here"), checkpoint("there", b"WEIGHTS")
    waits = [start_hashing_weights(job, here if job.process < 2 else there, []) for job in processes]
    assert waits[0]() == waits[1]()
    for wait in waits[2:]:
        with pytest.raises(InputError, match=r"there: its weights are not those of the first machine \(SHA-256 "):
            wait()
