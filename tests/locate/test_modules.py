"""No false alarm on the CPU, which is sound; and what a broken module looks like there. Faults of a device are planted
in tests/device/npu_cases/cases_locate.py."""

import dataclasses
import json

import pytest
import torch

from tests.support.model_checks import check_model
from tests.support.random_checkpoint import SHAPES, make_model, save_checkpoint, write_checkpoint
from videobench.device.devices import open_device
from videobench.locate.deviation import in_tolerances
from videobench.locate.findings import lines
from videobench.locate.modules import ModuleCheck
from videobench.model import cache

DTYPES = ["float32", "float16", "bfloat16"]
GROUPED = dataclasses.replace(SHAPES["small"], text=(64, 128, 2, 4), image_size=56)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A random model with two heads of queries for each head of keys."""
    hollow, folder = tmp_path_factory.mktemp("hollow"), tmp_path_factory.mktemp("grouped")
    write_checkpoint(GROUPED, hollow)
    config = json.loads((hollow / "config.json").read_text())
    config["text_config"]["num_key_value_heads"] = 2
    (hollow / "config.json").write_text(json.dumps(config))
    save_checkpoint(hollow, folder, make_model(hollow, torch.device("cpu"), torch.float32))
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["tiny_model_path", "grouped"])
def test_a_sound_device_agrees(request, model, dtype):
    findings = check_model(request.getfixturevalue(model), open_device("cpu"), dtype)
    assert findings.found == ()
    assert findings.calls > 90
    assert lines(findings) == [
        f"{dtype}: all {findings.calls:,} module calls agree with the CPU's float32 "
        f"(largest error: {in_tolerances(findings.largest)})"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_device_agrees_on_a_middle_sized_model(tmp_path, dtype):
    hollow, folder = tmp_path / "hollow", tmp_path / "mid"
    write_checkpoint(SHAPES["mid"], hollow)
    save_checkpoint(hollow, folder, make_model(hollow, torch.device("cpu"), torch.float32))
    assert check_model(folder, open_device("cpu"), dtype).found == ()


def test_a_wrong_copy_of_the_cache_is_named(monkeypatch, tiny_model_path):
    def corrupt(states, room):
        buffer = cache_with_room(states, room)
        buffer[-1, 0, 3, 0] += 1
        return buffer

    cache_with_room = cache._with_room
    monkeypatch.setattr(cache, "_with_room", corrupt)
    findings = check_model(tiny_model_path, open_device("cpu"), "float32")
    first = findings.found[0]
    assert (first.module, first.kind) == ("copies of the cache", "suffix")
    text = lines(findings)
    assert text[1] == "  first, in the order of computing: copies of the cache"
    assert any("look at: how keys and values are copied" in line for line in text)


def test_without_memory_values_are_kept_for_one_layer_at_a_time(monkeypatch, capsys, tiny_model_path):
    def fail_once(self, forward):
        if forward.number == 2:  # after two that were compared
            monkeypatch.setattr(ModuleCheck, "_compare", compare)
            raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")
        compare(self, forward)

    compare = ModuleCheck._compare
    sound = check_model(tiny_model_path, open_device("cpu"), "float16", with_table=True)
    monkeypatch.setattr(ModuleCheck, "_compare", fail_once)
    findings = check_model(tiny_model_path, open_device("cpu"), "float16", with_table=True)
    assert capsys.readouterr().err.count("out of memory; again, with values kept for one layer at a time") == 1
    assert (findings.calls, findings.found) == (sound.calls, ())
    assert sorted(row[0] for row in findings.rows) == sorted(row[0] for row in sound.rows)
