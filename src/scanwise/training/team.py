"""The processes that train one network together, each on its share of every batch.

Lightning Fabric finds out who started them (torchrun, SLURM), connects them (gloo on CPUs, NCCL on
NVIDIA GPUs) and averages their gradients. What is not a tensor, such as the name of the run folder,
goes through the store that torch keeps for the purpose. It takes seconds to load, so a process that
trains alone in float32 on a CPU does without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scanwise.core import processes
from scanwise.core.errors import ConfigError, DeviceError, RunError
from scanwise.training.device import FabricPrecision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Others wait as long for the first: data may take hours to read. If it dies, they are ended.
PATIENCE = timedelta(days=1)


class Plain:
    """What training needs of Fabric where nothing is to be wrapped: one process, CPU, float32."""

    def setup(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both as they are."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss."""
        torch.autograd.backward(loss)


class Team:
    """A process that trains alone; `Together` is one of several, with the same methods."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """True in the process that validates, decides, writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(rank, size): every size-th image of a batch from the rank-th on is this process's."""
        return self.rank, self.size

    def fabric(self, device: torch.device, precision: FabricPrecision) -> Fabric | Plain:
        """Lightning Fabric for this device, or what does the same where there is nothing to do."""
        if device.type == "cpu" and precision == "32-true":
            return Plain()
        from lightning_fabric import Fabric

        devices = 1 if device.index is None else [device.index]
        return Fabric(accelerator=device.type, devices=devices, precision=precision)

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process, of the kind that was chosen."""
        return chosen

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        return tensor

    def leaders(self, numbers: Sequence[float] | None, count: int) -> list[float]:
        """`count` numbers of the first process, in all; `numbers` of the others are not read."""
        assert numbers is not None
        return list(numbers)

    def leaders_text(self, name: str, make: Callable[[], str]) -> str:
        """What `make` gives in the first process, in all; `name` is used once in a training."""
        return make()

    @contextmanager
    def leader_first(self, name: str) -> Iterator[None]:
        """The first process goes through the block alone (and fills the cache), then the others."""
        yield

    def finish(self) -> None:
        """Wait until the first process has written everything."""


ALONE = Team()


class Together(Team):
    """One of several processes that train one network."""

    def __init__(self, devices: int, nodes: int, chosen: torch.device) -> None:
        """Meet the others; returns when all are there."""
        _silence()
        self._devices, self._nodes = devices, nodes
        fabric = self.fabric(chosen, "32-true")
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self._own_device: torch.device = fabric.device
        self._fabric = fabric
        self._store = _new_store()
        self._store.set_timeout(PATIENCE)
        processes.meet(self.rank, self._claim_failure)

    def fabric(self, device: torch.device, precision: FabricPrecision) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        fabric = Fabric(
            accelerator=device.type,
            devices=self._devices,
            num_nodes=self._nodes,
            strategy=DDPStrategy(),
            precision=precision,
        )
        fabric.launch()
        return fabric

    def device(self, chosen: torch.device) -> torch.device:
        return self._own_device

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def leaders(self, numbers: Sequence[float] | None, count: int) -> list[float]:
        sent = torch.zeros(count, dtype=torch.float64)
        if self.leads:
            assert numbers is not None
            sent = torch.tensor(numbers, dtype=torch.float64)
        received = sent.to(self._own_device)
        dist.broadcast(received, src=0)
        return [float(number) for number in received.tolist()]

    def leaders_text(self, name: str, make: Callable[[], str]) -> str:
        if self.leads:
            text = make()
            self._store.set(name, text)
            return text
        found: bytes = self._store.get(name)
        return found.decode()

    @contextmanager
    def leader_first(self, name: str) -> Iterator[None]:
        if not self.leads:
            self._store.wait([name])
        yield
        if self.leads:
            self._store.set(name, "done")

    def finish(self) -> None:
        self.leaders_text("finished", lambda: "done")
        # The store may live in the first process, which must not leave before all have read it.
        self._fabric.barrier()

    def _claim_failure(self) -> bool | None:
        try:
            return int(self._store.add("failed", 1)) == 1
        except Exception:  # whoever kept the store is gone, and has said why
            return None


_trainings = 0


def _new_store() -> Any:
    """A store of this training's own: a script may train several times."""
    # Here: there are builds of torch without it.
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    global _trainings
    _trainings += 1
    return PrefixStore(f"scanwise-{_trainings}", _get_default_store())


def _silence() -> None:
    """Fabric announces each process; the epoch log says it in one line."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def join_team(devices: int, nodes: int, chosen: torch.device) -> Team:
    """Meet the other processes of this training, if there are to be any.

    Args:
        devices: Processes on each machine.
        nodes: Machines.
        chosen: Kind of device; each process gets its own one of it.

    Raises:
        ConfigError: If as many processes were not started, or the device can't be shared.
        DeviceError: If a machine has fewer GPUs.
    """
    processes.check_start(devices, nodes, processes.started_by())
    if devices * nodes == 1:
        return ALONE
    if chosen.type == "mps":
        raise ConfigError("an Apple GPU trains in one process: leave out --devices and --nodes.")
    here = torch.cuda.device_count() if chosen.type == "cuda" else devices
    if here < devices:
        raise DeviceError(
            f"--devices {devices}, but this process sees {here} CUDA devices; give fewer, or "
            "--device cpu (in SLURM give each machine its GPUs by --gres, not by --gpus-per-task)."
        )
    return Together(devices, nodes, chosen)


def check_same_checkpoint(team: Team, epoch: int, folder: object) -> None:
    """All processes must go on from the same epoch.

    Raises:
        RunError: If this one sees another checkpoint than the first.
    """
    first = int(team.leaders([epoch], 1)[0])
    if epoch != first:
        raise RunError(
            f"one process sees {folder} after epoch {epoch}, the first one after epoch {first}; "
            "all must see the same folder, on a disk that the machines share."
        )
