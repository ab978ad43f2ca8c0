"""The memory of a device: how much is free, what running out of it looks like, what a run took."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from videobench.console import in_bytes
from videobench.device.devices import Device, another_process, is_out_of_memory
from videobench.errors import InputError


def memory_bytes(device: Device) -> tuple[int, int]:
    """(free, in all) on the card, or of the machine for cpu."""
    import torch

    if device.kind == "cpu":
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    free, total = getattr(torch, device.kind).mem_get_info(device.torch_device.index)
    return int(free), int(total)


def check_free_memory(device: Device, needed: int, dtype: str) -> None:
    """Raises InputError where a card cannot take even the weights: it is too small, or another process fills it."""
    if device.kind == "cpu":
        return
    free, total = memory_bytes(device)
    found = (
        f"device {device.torch_device} ({device.name}): {in_bytes(free)} of {in_bytes(total)} of its memory are free"
    )
    if needed > total:
        raise InputError(
            f"{found}, the weights in {dtype} take {in_bytes(needed)}; use a 16-bit --dtype or a larger card"
        )
    if needed > free:
        raise InputError(f"{found}, the weights in {dtype} take {in_bytes(needed)}; {another_process(device.kind)}")


@contextmanager
def reading_weights(device: Device) -> Iterator[None]:
    """Running out of memory meanwhile becomes an InputError: check_free_memory does not know what the loader takes."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"device {device.torch_device} ({device.name}): out of memory while the weights were read; free some of "
            "it, use a 16-bit --dtype, or a larger card"
        ) from None


def release_memory(device: Device) -> None:
    """Give blocks that torch keeps for later use back to the card, so that blocks of another size can be had."""
    import torch

    if device.kind != "cpu":
        getattr(torch, device.kind).empty_cache()


def peak_memory_bytes(device: Device) -> int:
    """The most memory that tensors have held on the device since the start; 0 on cpu, which does not count."""
    import torch

    return 0 if device.kind == "cpu" else int(getattr(torch, device.kind).max_memory_allocated())


def too_large(device: Device) -> str:
    """Why a question failed that did not fit by itself."""
    return (
        f"{device.torch_device} ({device.name}) has not the memory for this question alone; use fewer --num_frames, a "
        "16-bit --dtype, or a larger card"
    )
