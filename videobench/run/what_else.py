"""What is left to try if a comparison fails and --check_model finds nothing: a cause and a command for each."""

import os
from collections.abc import Iterator

from videobench.commands import SAMPLER, Command, fold, interpreter
from videobench.data.manifest import SAMPLE_MANIFEST_FILE
from videobench.run.options import RunSettings

CARDS = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}
LINE = 80  # columns


def what_else(settings: RunSettings) -> Iterator[str]:
    """Lines to print; `settings` are of the check, on the device that it has used."""
    if settings.command is None:
        return
    yield "If a comparison has found a difference all the same, its cause is not in these modules. What is left:"
    for cause, command in _causes(settings, settings.command):
        yield f"- {cause}:"
        yield fold(command, LINE)


def _causes(settings: RunSettings, check: Command) -> Iterator[tuple[str, str]]:
    run = check.without("check_questions", "output_json", "output_csv", switches=["check_model"])
    manifest = settings.sources[0].qa_path.with_name(SAMPLE_MANIFEST_FILE).absolute()

    def into(name: str, changed: Command) -> str:
        """Into a folder of its own, to be compared with the other side's."""
        folder = f"{settings.output_folder.absolute()}_{name}"
        return changed.with_flag("chat_conversation_output_folder", folder).text

    inputs = "other pixels or prompts (the comparison's table of inputs)"
    if manifest.is_file():
        verify = Command(SAMPLER, ("--verify", str(manifest))).text
        yield f"{inputs}: is the sample whole, on both machines?", verify
    else:
        yield f"{inputs}: is the first prompt the same on both machines?", run.with_flag("dry_run").text
    if settings.device in CARDS:
        name = CARDS[settings.device]
        card = os.environ.get(name, "0").split(",")[0].strip() or "0"
        alone = run.without("tensor_parallel").with_variable(name, card)
        yield (
            "links between cards, or another card: answer on this one alone, and compare that",
            into("one_card", alone),
        )
    release = f"{interpreter()} -m pip install transformers==RELEASE"
    yield (
        "a library that device and CPU share: install the other side's RELEASE (table of inputs), check again",
        release,
    )
    repeated = into("deterministic", run.with_flag("deterministic"))
    yield "numbers that differ from run to run: answer again with fixed ones, and compare that", repeated
    requests = f"{settings.output_folder.absolute()}_requests.jsonl"
    exported = run.without(switches=["overwrite"]).with_flag("export_requests", requests).text
    yield "a service's own kernels, which this check does not see: ask it what this writes, one by one", exported
