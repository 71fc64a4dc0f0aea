"""Lets a network fly as fast as a CPU allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deploy_kit.flight.policy_driver import PolicyDriver
from deploy_kit.flight.rollout import Driver
from deploy_kit.policy.folded_network import FoldedNetwork
from deploy_kit.policy.network import PolicyOutput, VisionActorCritic
from deploy_kit.policy.protocol import PolicyNetwork
from deploy_kit.sim.mujoco.workers import WorkerPool
from deploy_kit.sim.options import usable_cores

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

SMALL_BATCH, CHUNKS = 64, (8, 16)
"""Rows that one thread takes at once: the first number up to this batch size, the second beyond."""


class CpuDriver:
    """A network's outputs, by several threads, each of which takes some rows at a time.

    Rows are grouped by the size of the batch alone, so that outputs do not depend on the number of threads. More rows
    at a time cost less each until their images outgrow the processor's cache, at some 32.

    Args:
        network: on the CPU; its weights are copied.
        num_threads: threads, the caller's included.
    """

    def __init__(self, network: VisionActorCritic, num_threads: int) -> None:
        self._network = FoldedNetwork(network)
        self._workers = WorkerPool(num_threads)

    def __call__(self, observation: Tensor) -> PolicyOutput:
        """Return the output for flat observations (N, 6928)."""
        chunks = torch.split(observation, CHUNKS[len(observation) > SMALL_BATCH])
        outputs: list[PolicyOutput | None] = [None] * len(chunks)

        def compute(index: int, _: int) -> None:
            # Both settings are a thread's own.
            torch.set_num_threads(1)
            with torch.inference_mode():
                outputs[index] = self._network(chunks[index])

        self._workers.run(compute, len(chunks))
        done = [output for output in outputs if output is not None]
        logits = [output.gate_logit for output in done if output.gate_logit is not None]
        return PolicyOutput(
            torch.cat([output.action for output in done]),
            torch.cat(logits) if logits else None,
            torch.cat([output.features for output in done]),
        )

    def close(self) -> None:
        """Stop the threads."""
        self._workers.close()


@contextmanager
def fast_driver(env: "VecEnv", driver: Driver | PolicyNetwork, num_threads: int | None = None) -> Iterator[Driver]:
    """Give what a driver computes, faster where it is a network and the environment is on a CPU.

    Outputs then differ by float32 rounding: not for flights that are to show what the network itself does.

    Args:
        env: environment to fly in.
        driver: network, or whatever else flies.
        num_threads: threads; None for one per usable core.

    Yields:
        The driver; it must not be used afterwards.
    """
    if isinstance(driver, PolicyNetwork):
        yield PolicyDriver(driver.to(env.device))
        return
    if not isinstance(driver, VisionActorCritic):
        yield driver
        return
    driver = driver.to(env.device)
    if torch.device(env.device).type != "cpu":
        yield driver
        return
    before = torch.get_num_threads()
    fast = CpuDriver(driver, num_threads or usable_cores())
    try:
        yield fast
    finally:
        fast.close()
        torch.set_num_threads(before)
