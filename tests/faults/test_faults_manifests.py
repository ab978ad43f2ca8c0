"""Manifests that name what is no part of a sample, through the real scripts: status 2 and one line."""

import json

import pytest

from tests.support.fault_tools import Bench, assert_refused, manifest_to_run, manifest_to_verify


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set+@", capsys, record_property)


@pytest.mark.parametrize(
    ("field", "content", "found"),
    [
        pytest.param("outputs_sha256", {"a/b.json": "0"}, "'a/b.json' is not a file name", id="json-in-a-folder"),
        pytest.param("outputs_sha256", {"..": "0"}, "'..' is not a path", id="json-is-two-dots"),
        pytest.param("outputs_sha256", {"": "0"}, "'' is not a path", id="json-without-a-name"),
        pytest.param("videos_folder", "/etc", "'/etc' is not a path", id="absolute-folder"),
        pytest.param("videos_folder", "../..", "'../..' is not a path", id="folder-above"),
        pytest.param("videos", {"/etc/passwd": 1}, "'/etc/passwd' is not a path", id="absolute-video"),
        pytest.param("videos", {"MSVD/../../../a": 1}, "is not a path", id="video-above"),
        pytest.param("videos", {"MSVD/a\0.avi": 1}, r"x00.avi' is not a path", id="video-with-a-zero"),
        pytest.param("videos", {"MSVD/\x1b[2J.avi": 1}, r"x1b\[2J.avi' is not a path", id="video-that-clears"),
        pytest.param("videos", {"MSVD/a.avi": -1}, "-1 is not a size", id="negative-size"),
        pytest.param("videos", {"MSVD/a.avi": True}, "True is not a size", id="size-is-true"),
        pytest.param("videos", {"MSVD/a.avi": 1.5}, "1.5 is not a size", id="size-is-no-whole-number"),
    ],
)
def test_a_manifest_that_names_other_files_is_refused(bench, field, content, found):
    path, start = manifest_to_verify(bench)
    manifest = json.loads(path.read_bytes())
    if field == "videos":
        manifest |= {"videos_bytes": content, "videos_sha256": dict.fromkeys(content, "0")}
    else:
        manifest[field] = content
    path.write_text(json.dumps(manifest))
    assert_refused(start(), path, found)


def test_a_run_refuses_it_too(bench):
    path, start = manifest_to_run(bench)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"videos_folder": "/etc"}))
    assert_refused(start(), path, "'/etc' is not a path below")
