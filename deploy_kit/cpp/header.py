"""Writes a policy as one C++17 header: contract's constants, weights, kernels, network, the whole step, golden samples.

The text follows from network, contract and golden samples alone, bit by bit, on every machine. So `verify` can write
it again and compare, which is a proof for all inputs.
"""

import hashlib
from importlib.resources import files

import numpy as np

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import GoldenSamples
from deploy_kit.cpp.constants import constants_text, introduction
from deploy_kit.cpp.literals import array_text
from deploy_kit.cpp.network_text import array_declaration, network_text
from deploy_kit.cpp.program import Program, program_of
from deploy_kit.errors import OptionError
from deploy_kit.policy.network import VisionActorCritic

GENERATOR = 1
"""Version of what is written; raised with every change of the text."""

NUM_GOLDEN = 2
"""Golden samples in the header: more would only take flash."""

TOLERANCE = 1e-5
"""Of the self-test, absolute and relative, as of the onboard runner's."""

_NAMESPACE = "@NAMESPACE@"


def header_text(network: VisionActorCritic, contract: Contract, golden: GoldenSamples) -> str:
    """Return the header of a bundle.

    Args:
        network: the checkpoint's network.
        contract: the bundle's contract.
        golden: the bundle's golden samples.

    Raises:
        OptionError: the policy cannot be written as C++, or the contract does not say how metres become the image.
    """
    depth = contract.observation.depth
    if depth.clip_m is None or depth.divisor_m is None:
        raise OptionError(
            "--format cpp: how metres become the depth image is unknown; give depth_range_m in --vehicle FILE"
        )
    program = program_of(network, contract.gate is not None)
    text = network_text(program)
    arrays = "".join(array_declaration(name, values) for name, values in text.arrays.items())
    weights = sum(values.size for values in text.arrays.values())
    kernels = _part("kernels.hpp").replace("}  // namespace kernels\n", f"{text.types}\n}}  // namespace kernels\n")
    policy = (
        _part("policy.hpp")
        .replace("@BUFFERS@", text.buffers)
        .replace("@ENCODER@", text.encoder)
        .replace("@HEADS@", text.heads)
    )
    parts = (
        introduction(contract, program, GENERATOR, weights),
        "#ifndef DEPLOY_KIT_POLICY_HPP\n#define DEPLOY_KIT_POLICY_HPP\n\n",
        _part("prelude.hpp"),
        "\nnamespace deploy_kit_policy {\n"
        "// Named after the content, so that two policies in one program stay apart.\n"
        f"inline namespace {_NAMESPACE} {{\n\n",
        constants_text(contract, program),
        "\n// ---- weights, in the order in which the kernels read them ----\n",
        arrays,
        "\n",
        kernels,
        "\n",
        _golden_text(golden, program),
        "\n",
        policy,
        f"\n}}  // namespace {_NAMESPACE}\n}}  // namespace deploy_kit_policy\n",
        _part("c_interface.hpp"),
        "\n#endif  // DEPLOY_KIT_POLICY_HPP\n",
    )
    whole = "".join(parts)
    return whole.replace(_NAMESPACE, f"policy_{hashlib.sha256(whole.encode()).hexdigest()[:16]}")


def _part(name: str) -> str:
    return files("deploy_kit.cpp").joinpath("parts", name).read_text(encoding="utf-8")


def _golden_text(golden: GoldenSamples, program: Program) -> str:
    """Return the samples of the self-test: the first one, and of the others that with the highest gate logit."""
    rows = [0]
    if len(golden) > 1:
        rows.append(len(golden) - 1 if golden.gate_logit is None else 1 + int(np.argmax(golden.gate_logit[1:, 0])))
    none = np.zeros((len(golden), 1), np.float32)
    arrays = {
        "kGoldenObservation": golden.observation,
        "kGoldenAction": golden.action,
        "kGoldenLogit": golden.gate_logit if program.gate and golden.gate_logit is not None else none,
        "kGoldenTerms": golden.gate_terms if program.gate and golden.gate_terms is not None else none,
    }
    text = "".join(
        f"inline const float {name}[{values[rows].size}] = {{\n{array_text(values[rows])}}};\n"
        for name, values in arrays.items()
    )
    return (
        "// ---- golden samples: normalised observations, and what PyTorch gave for them ----\n"
        "#if !defined(DEPLOY_KIT_NO_SELF_TEST)\n"
        f"constexpr int kGoldenSamples = {len(rows)};\n"
        f"constexpr double kGoldenTolerance = {TOLERANCE};\n"
        f"{text}#endif\n"
    )
