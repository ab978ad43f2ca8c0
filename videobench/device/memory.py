"""The memory of a device: how much is free, how much a run took, and the errors when there is too little."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from videobench.console import in_bytes
from videobench.device.devices import Device, another_process, is_out_of_memory
from videobench.errors import InputError, OutOfMemory


def memory_bytes(device: Device) -> tuple[int, int]:
    """(free, total) of the card, or for cpu of the host."""
    import torch

    if device.kind == "cpu":
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    free, total = getattr(torch, device.kind).mem_get_info(device.torch_device.index)
    return int(free), int(total)


def check_free_memory(device: Device, needed: int, dtype: str) -> None:
    """Raises InputError where a card has no room for `needed` bytes of weights: too small, or filled by another
    process."""
    if device.kind == "cpu":
        return
    free, total = memory_bytes(device)
    found = f"device {device.torch_device} ({device.name}): {in_bytes(free)} of {in_bytes(total)} of its memory is free"
    if needed > total:
        raise InputError(
            f"{found}, the weights in {dtype} take {in_bytes(needed)}; use a 16-bit --dtype or a larger card"
        )
    if needed > free:
        raise InputError(f"{found}, the weights in {dtype} take {in_bytes(needed)}; {another_process(device.kind)}")


@contextmanager
def reading_weights(device: Device) -> Iterator[None]:
    """Turns running out of memory into an InputError: check_free_memory does not know how much the loader takes."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"device {device.torch_device} ({device.name}): out of memory while reading the weights; free some, "
            "use a 16-bit --dtype, or a larger card"
        ) from None


def release_memory(device: Device) -> None:
    """Return the blocks that torch keeps for later use to the card, so that blocks of other sizes can be allocated."""
    import torch

    if device.kind != "cpu":
        getattr(torch, device.kind).empty_cache()


def peak_memory_bytes(device: Device) -> int:
    """The most memory that tensors have used on the device since the start; 0 on cpu, which does not count it."""
    import torch

    return 0 if device.kind == "cpu" else int(getattr(torch, device.kind).max_memory_allocated())


def too_large(device: Device) -> str:
    """Why a question failed that did not fit by itself."""
    return (
        f"not enough memory on {device.torch_device} ({device.name}) for this question alone; use fewer --num_frames, "
        "a 16-bit --dtype, or a larger card"
    )
