"""Process group backend "hccl" of the test double: gloo, on host copies of the cards' tensors."""

import torch
import torch.distributed as dist

from torch_npu import _faults


class HcclOverGloo(dist.ProcessGroup):
    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    @property
    def _device_types(self):
        return [torch.device("npu")]  # collectives of objects, and barriers, go through tensors on a card

    def getBackendName(self):
        return "hccl"

    def setGroupName(self, name):  # torch keeps it in the group's backends, of which this one has none
        self.name = name

    def getGroupName(self):
        return self.name

    def _run(self, call, *arguments):
        """`call` on host copies of the tensors in `arguments` (nested lists), which are then copied back."""
        copies = []

        def to_host(content):
            if not isinstance(content, torch.Tensor):
                return [to_host(each) for each in content]
            if content.device.type != "npu":
                raise RuntimeError(f"No backend type associated with device type {content.device.type}")
            copies.append((content, content.cpu()))
            return copies[-1][1]

        if _faults.FAULT == "link":
            raise RuntimeError(
                "HCCL function error: HcclAllReduce, error code is 6\n[ERROR] EI0006 getting socket times out"
            )
        work = call(*to_host(arguments))
        work.wait()
        for on_card, on_host in copies:
            on_card.copy_(on_host)
        return work

    def allreduce(self, tensors, options=None):
        return self._run(lambda own: self.gloo.allreduce(own, options or dist.AllreduceOptions()), tensors)

    def broadcast(self, tensors, options=None):
        return self._run(lambda own: self.gloo.broadcast(own, options or dist.BroadcastOptions()), tensors)

    def reduce(self, tensors, options=None):
        return self._run(lambda own: self.gloo.reduce(own, options or dist.ReduceOptions()), tensors)

    def allgather(self, outputs, tensors, options=None):
        return self._run(
            lambda all_, own: self.gloo.allgather(all_, own, options or dist.AllgatherOptions()), outputs, tensors
        )

    def gather(self, outputs, tensors, options=None):
        return self._run(
            lambda all_, own: self.gloo.gather(all_, own, options or dist.GatherOptions()), outputs, tensors
        )

    def scatter(self, outputs, tensors, options=None):
        return self._run(
            lambda own, all_: self.gloo.scatter(own, all_, options or dist.ScatterOptions()), outputs, tensors
        )

    def _allgather_base(self, output, tensor, options=None):
        def call(outputs, inputs):
            return self.gloo.allgather([list(outputs[0].chunk(self.size()))], inputs)

        return self._run(call, [output], [tensor])

    all_gather_single = _allgather_base  # its name from torch 2.13 on

    def all_gather_single_coalesced(self, outputs, tensors, options=None):
        def call(outputs, inputs):
            for output, own in zip(outputs, inputs, strict=True):
                work = self.gloo.allgather([list(output.chunk(self.size()))], [own])
                work.wait()
            return work

        return self._run(call, outputs, tensors)

    def allreduce_coalesced(self, tensors, options=None):
        def call(tensors):
            for own in tensors:
                work = self.gloo.allreduce([own], dist.AllreduceOptions() if options is None else _one_by_one(options))
                work.wait()
            return work

        return self._run(call, tensors)

    def send(self, tensors, to, tag=0):
        return self._run(lambda own: self.gloo.send(own, to, tag), tensors)

    def recv(self, tensors, source, tag=0):
        return self._run(lambda own: self.gloo.recv(own, source, tag), tensors)

    def barrier(self, options=None):
        return self.gloo.barrier(dist.BarrierOptions())


def _one_by_one(options):
    single = dist.AllreduceOptions()
    single.reduceOp = options.reduceOp
    return single


def _create(store, rank, size, timeout):
    return HcclOverGloo(store, rank, size, timeout)


if not hasattr(dist.Backend, "HCCL"):
    dist.Backend.register_backend("hccl", _create, devices=["npu"])
