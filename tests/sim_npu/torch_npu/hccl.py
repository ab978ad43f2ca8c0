"""Process group backend "hccl" of the test double: gloo, on host copies of the cards' tensors."""

import torch
import torch.distributed as dist


class HcclOverGloo(dist.ProcessGroup):
    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

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

        work = call(*to_host(arguments))
        work.wait()
        for on_card, on_host in copies:
            on_card.copy_(on_host)
        return work

    def allreduce(self, tensors, options=None):
        return self._run(lambda own: self.gloo.allreduce(own, options or dist.AllreduceOptions()), tensors)

    def broadcast(self, tensors, options=None):
        return self._run(lambda own: self.gloo.broadcast(own, options or dist.BroadcastOptions()), tensors)

    def allgather(self, outputs, tensors, options=None):
        return self._run(
            lambda all_, own: self.gloo.allgather(all_, own, options or dist.AllgatherOptions()), outputs, tensors
        )

    def all_gather_single_coalesced(self, outputs, tensors, options=None):
        def call(outputs, inputs):
            for output, own in zip(outputs, inputs, strict=True):
                work = self.gloo.allgather([list(output.chunk(self.size()))], [own])
                work.wait()
            return work

        return self._run(call, outputs, tensors)


def _create(store, rank, size, timeout):
    return HcclOverGloo(store, rank, size, timeout)


dist.Backend.register_backend("hccl", _create, devices=["npu"])
