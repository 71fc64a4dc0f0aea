"""Which of several processes this one is: what ``torchrun`` and Slurm's or Kubernetes' launchers say."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from deploy_kit.errors import OptionError


@dataclass(frozen=True)
class Rank:
    """One of several processes that share one job.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
        local: number among those of this machine, which is also its GPU's.
        local_count: processes on this machine.
        job: name of the job, the same for all its processes; empty without a launcher.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    job: str = ""

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes for all."""
        return self.index == 0


ALONE = Rank()
"""A process that shares its job with no other."""


def launched_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return what a launcher such as ``torchrun`` says, a single process where there is none.

    Raises:
        OptionError: the launcher's variables contradict each other.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return ALONE
    try:
        index, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", index))
        local_count = int(environment.get("LOCAL_WORLD_SIZE", count))
    except ValueError as error:
        raise OptionError(f"RANK, WORLD_SIZE and LOCAL_RANK of the launcher must be numbers ({error})") from error
    if not 0 <= index < count or not 0 <= local < local_count:
        raise OptionError(f"RANK={index}, WORLD_SIZE={count}, LOCAL_RANK={local}: the launcher contradicts itself")
    # The agent's address tells one launch from the next where no name is given.
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    job = "-".join(environment[name] for name in names if environment.get(name))
    if local_count == count:
        # Processes of one machine have one parent, the launcher.
        job += f"-{os.getppid()}"
    return Rank(index, count, local, local_count, job)


def usable_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the GPUs that a process may use, as ``CUDA_VISIBLE_DEVICES`` lists them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def take_gpu(rank: Rank, environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
    """Leave this process the one GPU of its local rank, so that ``cuda`` and ``cuda:0`` mean that one everywhere.

    To be called before CUDA is used: libraries that take the first GPU whatever they are told then take the right one.

    Raises:
        OptionError: there are fewer GPUs than processes on this machine.
    """
    # Counting with torch.cuda would fix the list of visible devices, so NVML's count is asked for in `usable_gpus`.
    gpus = usable_gpus(environment)
    if rank.local_count > 1 and len(gpus) == 1 and environment.get("DEPLOY_KIT_GPU_TAKEN") == str(rank.local):
        return
    if rank.local >= len(gpus):
        raise OptionError(f"process {rank.local} of this machine has no GPU: {len(gpus)} are visible; start fewer")
    environment["CUDA_VISIBLE_DEVICES"] = gpus[rank.local]
    environment["DEPLOY_KIT_GPU_TAKEN"] = str(rank.local)


def threads_each(rank: Rank, cores: int) -> int:
    """Return how many CPU threads one process of this machine may use, at least one."""
    return max(1, cores // rank.local_count)
