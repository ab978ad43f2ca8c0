"""Was one question asked alike on both sides? None or False where the rows do not say."""

from dataclasses import replace
from pathlib import PurePosixPath

from videobench.compare.pairing import Pair
from videobench.data.rows import Reply


def inputs_differ(pair: Pair) -> bool:
    """Whether the sides are known to have been given different things."""
    prompts = prompts_differ(pair) or prompt_lengths_differ(pair)
    return bool(question_differs(pair)) or prompts or pixels_differ(pair)


def prompts_differ(pair: Pair) -> bool:
    """Whether the token ids differ; False where a side stores no hash."""
    return hashes_differ(pair, "prompt_sha256")


def prompt_lengths_differ(pair: Pair) -> bool:
    """Whether the numbers of prompt tokens differ; False where they are not known."""
    lengths = prompt_lengths(pair)
    return lengths is not None and lengths[0] != lengths[1]


def prompt_lengths(pair: Pair) -> tuple[int, int] | None:
    """The numbers of prompt tokens of both sides, where one does not store the tokens themselves: a check, no proof.

    A side that does not count them is taken to have as many as the checkpoint's template makes of the exported request,
    so that another number on the other side is not passed over. None where they are not known."""
    npu, gpu = pair.npu.reply, pair.gpu.reply
    if npu is None or gpu is None or (npu.prompt_sha256 and gpu.prompt_sha256):
        return None
    if npu.prompt_tokens is None and gpu.prompt_tokens is None:
        return None
    expected = next((each.expected_prompt_tokens for each in (npu, gpu) if each.expected_prompt_tokens), None)
    first, second = (expected if each.prompt_tokens is None else each.prompt_tokens for each in (npu, gpu))
    return None if first is None or second is None else (first, second)


def pixels_differ(pair: Pair) -> bool:
    return hashes_differ(pair, "pixels_sha256")


def hashes_differ(pair: Pair, field: str) -> bool:
    npu, gpu = getattr(pair.npu.reply, field, ""), getattr(pair.gpu.reply, field, "")
    return bool(npu and gpu and npu != gpu)


def question_differs(pair: Pair) -> bool | None:
    """Whether the rows hold another question or instruction, other choices or another video; None where they share no
    such field."""
    npu, gpu = pair.npu.reply, pair.gpu.reply
    if npu is None or gpu is None:
        return None
    same = [same_video(npu, gpu), _same_text(npu, gpu)]
    if _both_state_options(npu, gpu):
        same.append(npu.options == gpu.options)
    known = [each for each in same if each is not None]
    return not all(known) if known else None


def same_video(npu: Reply | None, gpu: Reply | None) -> bool | None:
    """By the pixels that were seen, else by the file's bytes, else by name: a sample has folders of its own.

    None if that is not known. A name that the other side has lent proves nothing."""
    if npu is None or gpu is None:
        return None
    if npu.pixels_sha256 and npu.pixels_sha256 == gpu.pixels_sha256:
        return True
    if npu.video_sha256 and gpu.video_sha256:
        return npu.video_sha256 == gpu.video_sha256
    if npu.vid_path_is_lent or gpu.vid_path_is_lent:
        return None
    names = [(PurePosixPath(each.vid_path).name, str(each.video_id)) for each in (npu, gpu)]
    known = [first == second for first, second in zip(*names, strict=True) if first and second]
    return all(known) if known else None


def _same_text(npu: Reply, gpu: Reply) -> bool | None:
    """Of question and instruction. A row without choices holds them in the question's text, in a form of its own."""
    if npu.question and (npu.question, npu.options) == (gpu.question, gpu.options):
        return True  # nearly always: the rest takes longer
    options = npu.options or gpu.options
    sides = [each if each.options else replace(each, options=options) for each in (npu, gpu)]
    npu_text, gpu_text = (" ".join(each.own_question.casefold().split()) for each in sides)
    if not npu_text or not gpu_text:
        return None
    if npu.states_prompt or gpu.states_prompt:
        first, second = (each.instruction for each in sides)
        if first and second and first != second:
            return False
    if _both_state_options(npu, gpu):
        return npu_text == gpu_text
    return npu_text.startswith(gpu_text) or gpu_text.startswith(npu_text)


def _both_state_options(npu: Reply, gpu: Reply) -> bool:
    return all(each.options and not each.options_are_lent for each in (npu, gpu))
