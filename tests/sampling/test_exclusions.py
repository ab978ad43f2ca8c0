"""--exclude: questions of an earlier sample are not drawn again, and a list that is not one is refused."""

import json

import pytest

from tests.support.stand_in import extract, read, sampled
from videobench.errors import InputError

SETS = ("NBA", "Driving-decision-making")


@pytest.mark.parametrize(
    "file", ["sampling_datasets_QA_new.json", "sampling_answer.json", "result.json", "names.txt", "ANSWER.json"]
)
def test_an_earlier_sample_is_excluded_by_any_of_its_files(benchmark, file):
    extract(benchmark, "--nums", "12", out="first")
    first = sampled(benchmark, "first")
    folder = benchmark / "first/json"
    (folder / "result.json").write_text(json.dumps({key: {"output_sequence": ["A"]} for key in first}))
    (folder / "names.txt").write_text("\ufeff" + "\n\n".join(["# of May", *first]).replace("Driving-", "driving_"))
    ids = {name: {key.split("/")[1]: "A" for key in first if key.startswith(name)} for name in SETS}
    (folder / "ANSWER.json").write_text(json.dumps(ids))
    extract(benchmark, "--nums", "8", "--exclude", folder / file)
    assert sorted(first + sampled(benchmark)) == sorted(f"{name}/{number}" for name in SETS for number in range(10))
    assert read(benchmark, "sampling_manifest.json")["inputs_sha256"].keys() >= {file}
    with pytest.raises(InputError, match=r"only 8 .*12 are excluded"):
        extract(benchmark, "--nums", "9", "--exclude", folder / file)


def test_a_sample_and_what_it_excludes_are_the_larger_sample(benchmark):
    extract(benchmark, "--nums", "14", out="whole")
    extract(benchmark, "--nums", "6", out="first")
    extract(benchmark, "--nums", "8", "--exclude", benchmark / "first/json/sampling_answer.json", out="second")
    assert sampled(benchmark, "first") + sampled(benchmark, "second") == sampled(benchmark, "whole")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param("NBA/77", "NBA/77 is in no QA file", id="unknown-id"),
        pytest.param("77", "'77' is not <dataset>/<id>", id="bare-id"),
        pytest.param("Kinetics/7", "'Kinetics/7' is not <dataset>/<id> of Video-Bench", id="unknown-set"),
        pytest.param("sampling_data/7", "'sampling_data/7' is not <dataset>/<id>", id="a-sample-as-the-set"),
        pytest.param("# none\n\n", "names no question", id="empty"),
        pytest.param('["NBA/7"]', "names no question", id="json-list"),
        pytest.param('{"NBA/7": ', "not JSON", id="cut-short"),
        pytest.param('{"7": {}}', "'7' is not <dataset>/<id>", id="qa-file-of-one-set"),
        pytest.param("NBA/\xff", "not UTF-8", id="latin-1"),
    ],
)
def test_a_wrong_list_of_exclusions_is_refused(benchmark, content, found):
    path = benchmark / "exclude"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=f"exclude: .*{found}"):
        extract(benchmark, "--nums", "2", "--exclude", path)
    assert not (benchmark / "sample").exists()


@pytest.mark.parametrize("flag", ["--exclude", "--correct_answer_file"])
def test_a_file_that_is_read_is_not_overwritten(benchmark, flag):
    extract(benchmark, "--nums", "4")
    before = sampled(benchmark)
    with pytest.raises(InputError, match=rf"sampling_answer\.json: {flag} names a file that would be overwritten"):
        extract(benchmark, "--nums", "2", flag, benchmark / "sample/json/sampling_answer.json")
    assert sampled(benchmark) == before


def test_exclusions_may_name_sets_that_are_not_drawn_from(benchmark):
    (benchmark / "exclude").write_text("NBA/3\nDriving-decision-making/3\n")
    extract(benchmark, "--nums", "9", "--datasets", "NBA", "--exclude", benchmark / "exclude")
    assert set(sampled(benchmark)) == {f"NBA/{number}" for number in range(10)} - {"NBA/3"}
