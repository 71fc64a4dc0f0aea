"""Write the policy as a frozen TorchScript module with the ONNX graph's inputs and outputs."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from deploy_kit.export.graph import DeployedPolicy


class _Outputs(nn.Module):
    """The exported outputs without the features: a tensor alone, or action and gate output as a tuple."""

    def __init__(self, policy: DeployedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.policy(*inputs)[:-1]
        return outputs[0] if len(outputs) == 1 else outputs


def write_torchscript(policy: DeployedPolicy, path: Path) -> None:
    """Trace, freeze and save a policy; the batch stays free unless the policy fixes it.

    Args:
        policy: the exported twin.
        path: target file.
    """
    save_traced(_Outputs(policy).eval(), policy.example_inputs(), path)


def save_traced(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, as_written: bool = False) -> None:
    """Trace, freeze and save a module.

    Args:
        module: in eval mode.
        inputs: inputs that fit.
        path: target file.
        as_written: keep each operator as it is, where the judge looks for it.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # Deprecated in favour of torch.export, but what Isaac Lab's deployment scripts load.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        traced = torch.jit.trace(module, inputs)  # type: ignore[no-untyped-call] # torch's own
        frozen = torch.jit.freeze(traced, optimize_numerics=not as_written)
        torch.jit.save(frozen, path)
