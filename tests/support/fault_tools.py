"""A small benchmark to break, and the scripts run on it."""

import hashlib
import importlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ASSETS
from tests.support.runs import SET, run_argv
from videobench.cli import run_script
from videobench.data.dataset import qa_file

SAMPLE = "sampling_data"
KEPT = re.compile(r"\d+ kept, \d+ to answer(; [^\n]*)?\n")  # a start that goes on says so


@dataclass(frozen=True)
class Outcome:
    """What one start of a script gave."""

    status: int
    out: str
    err: str


class Bench:
    """The small data set of one set, in folders of its own: `qa`, `videos`, `out` and what a script adds."""

    SOURCE = ASSETS / "egs"

    def __init__(self, folder: Path, capsys):
        self.folder = folder
        self._capsys = capsys
        (folder / "qa/Eval_QA").mkdir(parents=True)
        shutil.copy(qa_file(self.SOURCE / "Video-Bench", SET), folder / "qa/Eval_QA")
        shutil.copy(self.SOURCE / "Video-Bench/ANSWER.json", folder / "qa")
        shutil.copytree(self.SOURCE / f"VideoBench/Eval_video/{SET}", folder / f"videos/Eval_video/{SET}")
        self.model = ASSETS / "tiny-llava-next-video"

    @property
    def qa(self) -> Path:
        return qa_file(self.folder / "qa", SET)

    @property
    def videos(self) -> Path:
        return self.folder / f"videos/Eval_video/{SET}"

    @property
    def result(self) -> Path:
        return self.folder / f"out/{SET}_eval.json"

    @property
    def journal(self) -> Path:
        return self.folder / f"out/journal/{SET}.rank0.jsonl"

    @property
    def roots(self) -> list[str]:
        return ["--Eval_QA_root", f"{self.folder}/qa", "--Eval_Video_root", f"{self.folder}/videos"]

    def run_flags(self, *more: object) -> list[str]:
        folders = [self.folder / name for name in ("qa", "videos", "out")]
        return run_argv(self.model, *folders, "--dataset_name", SET, *more)

    def answer(self, *more: object) -> Outcome:
        """run_gpu.py; the last of a flag that is given twice counts."""
        return self.start("run_gpu", *self.run_flags(*more))

    def sample(self, *more: object) -> Outcome:
        """extract_dataset.py, into the folders of the benchmark itself."""
        return self.start("extract_dataset", *self.roots, "--datasets", SET, "--nums", 6, "--num_workers", 1, *more)

    def compare(self, *more: object, npu: str = "npu.json", gpu: str = "gpu.json") -> Outcome:
        paths = [self.folder / npu, self.folder / gpu, self.folder / "qa/ANSWER.json"]
        flags = ("--eval_npu_path", "--eval_gpu_path", "--sampling_answer_path")
        return self.start("precision_test", *(each for pair in zip(flags, paths, strict=True) for each in pair), *more)

    def start(self, script: str, *argv: object) -> Outcome:
        """The script's own main, as `python <script>.py` calls it, in this process."""
        module = importlib.import_module(script)
        self._capsys.readouterr()
        status = run_script(lambda: module.main([str(each) for each in argv]))
        captured = self._capsys.readouterr()
        return Outcome(status, captured.out, KEPT.sub("", captured.err))

    def rows(self) -> dict:
        return json.loads(self.qa.read_bytes())

    def shorten(self, number: int) -> "Bench":
        """Keep the first questions only."""
        self.qa.write_text(json.dumps(dict(list(self.rows().items())[:number])))
        return self

    def change(self, **fields: object) -> str:
        """Change fields of the second question (None: take the field away); its id."""
        rows = self.rows()
        key = list(rows)[1]
        rows[key] = {name: value for name, value in (rows[key] | fields).items() if value is not None}
        self.qa.write_text(json.dumps(rows))
        return key

    def write_replies(self, name: str, **fields: object) -> dict:
        """A result file of every question, answered with its first option; `fields` as for `change`."""
        rows = {
            key: {"dataset": SET, "vid_path": row["vid_path"], "choices": row["choices"], "output_sequence": ["A"]}
            for key, row in self.rows().items()
        }
        second = list(rows)[1]
        rows[second] = {field: value for field, value in (rows[second] | fields).items() if value is not None}
        (self.folder / name).write_text(json.dumps(rows))
        return rows

    def write_journal(self) -> None:
        """A journal with two replies, as a run that was stopped leaves it."""
        self.answer("--limit", 2)
        self.result.unlink()

    def contents(self) -> dict[str, str]:
        """Every file with a hash of what it holds: to see that nothing was written or lost."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_refused(outcome: Outcome, path: Path | str, found: str) -> None:
    """Status 2 and one line that names the file, what was found, and after a semicolon, or at its end, the mend."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert str(path) in outcome.err
    assert re.search(found, outcome.err), outcome.err
    assert re.search(r"(; |: )[a-z-][^;]+$", outcome.err), "no mend: " + outcome.err
    assert "Traceback" not in outcome.err
