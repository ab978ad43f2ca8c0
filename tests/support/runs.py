"""Result files: what a run of the small set wrote, and those of two runs to compare."""

import json

SET = "MSVD"


def results(folder, name=SET):
    return json.loads((folder / "out" / f"{name}_eval.json").read_text(encoding="utf-8"))


def write_runs(folder, rows):
    """Paths of npu_eval.json, gpu_eval.json and ANSWER.json; `rows`: (data set, id) -> both rows, right letter."""
    paths = [folder / f"{name}.json" for name in ("npu_eval", "gpu_eval", "ANSWER")]
    answers = {}
    for (dataset, id), (_, _, right) in rows.items():
        answers.setdefault(dataset, {})[id] = {"answer": right}
    contents = [{"/".join(name): sides[side] for name, sides in rows.items()} for side in (0, 1)] + [answers]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    return paths
