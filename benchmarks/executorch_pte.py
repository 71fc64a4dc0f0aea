"""Export a policy with ExecuTorch (XNNPACK), compare it with PyTorch, and time it.

Needs executorch and torchao beside torch, which deploy-kit does not ask for:

    pip install executorch==1.5.1
    python benchmarks/executorch_pte.py [--checkpoint FILE]
"""

import argparse
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import Tensor, nn

from deploy_kit.bundle.contract_fields import GateOutput
from deploy_kit.bundle.graph_options import GraphOptions
from deploy_kit.export.graph import DeployedPolicy
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.policy.shipped import DEMO_POLICY
from deploy_kit.timing import Plan, latency, measure, timer

ROWS = 2000


class Outputs(nn.Module):
    """The exported outputs without the features."""

    def __init__(self, policy: DeployedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, state: Tensor, depth: Tensor) -> tuple[Tensor, ...]:
        """Return action and gate logit."""
        outputs: tuple[Tensor, ...] = self.policy(state, depth)[:-1]
        return outputs


def main() -> None:
    """Print size, errors and duration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=DEMO_POLICY)
    network = load_checkpoint(parser.parse_args().checkpoint).network
    policy = DeployedPolicy(network, GraphOptions(gate_output=GateOutput.LOGIT, batch_size=1))
    module = Outputs(policy).eval()
    program = torch.export.export(module, policy.example_inputs())
    data = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    method = Runtime.get().load_program(data).load_method("forward")
    generator, worst = torch.Generator().manual_seed(1), [0.0, 0.0]
    layout = network.config.layout
    for _ in range(ROWS):
        state = 3 * torch.randn(1, layout.state_size, generator=generator)
        depth = torch.rand(1, 1, *layout.image_shape, generator=generator)
        with torch.inference_mode():
            wanted = module(state, depth)
        found = method.execute([state, depth])
        worst = [max(w, float((f - r).abs().max())) for w, f, r in zip(worst, found, wanted, strict=True)]
    durations = measure({"pte": timer(lambda: method.execute([state, depth]))}, Plan(30, 100))
    print(f"{len(data)} bytes; off by {worst[0]:.2g} (action), {worst[1]:.2g} (gate logit) over {ROWS} inputs")
    print(f"p50 {latency(durations['pte']).p50_us:.1f} µs")


if __name__ == "__main__":
    main()
