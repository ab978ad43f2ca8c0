"""Flags of runs and samples, and result files: what a run of the small set wrote, and those of two runs to compare."""

import json

SET = "MSVD"


def run_argv(model, qa_root, video_root, out, *more):
    """Flags of a run on the CPU, without workers."""
    argv = ("--model_path", model, "--Eval_QA_root", qa_root, "--Eval_Video_root", video_root, "--device", "cpu")
    return [str(each) for each in (*argv, "--chat_conversation_output_folder", out, "--num_workers", 0, *more)]


def sample_argv(qa_root, video_root, folder, *more):
    """Flags of extract_dataset.py for a sample in one folder."""
    argv = ("--Eval_QA_root", qa_root, "--Eval_Video_root", video_root, "--json_output_path", folder / "Eval_QA")
    return [str(each) for each in (*argv, "--sampling_output_folder", folder / "Eval_video", *more)]


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
