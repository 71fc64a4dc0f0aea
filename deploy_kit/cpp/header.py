"""Writes a policy as one C++17 header: contract's constants, weights, kernels, network, the whole step, golden samples.

The text follows from network, contract and golden samples alone, bit by bit, on every machine. So `verify` can write
it again and compare, which is a proof for all inputs.
"""

import hashlib
from importlib.resources import files

import numpy as np

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import HEADERS, GoldenSamples
from deploy_kit.bundle.variants import LARGE
from deploy_kit.cpp.constants import constants_text, introduction
from deploy_kit.cpp.evaluation import StoredNetwork
from deploy_kit.cpp.literals import array_text
from deploy_kit.cpp.network_text import array_declaration, network_text
from deploy_kit.cpp.program import Program, program_of
from deploy_kit.cpp.storage import FORMATS, Storage
from deploy_kit.errors import OptionError
from deploy_kit.policy.network import VisionActorCritic

GENERATOR = 6
"""Version of what is written; raised with every change of the text."""

NUM_GOLDEN = 2
"""Golden samples in the header: more would only take flash."""

TOLERANCE = 1e-5
"""Of the self-test, absolute and relative, as of the onboard runner's."""

_NAMESPACE = "@NAMESPACE@"

_INCLUDES = (
    "#if defined(__GNUC__) && defined(__SSE2__)\n#include <immintrin.h>\n"
    "#elif defined(__GNUC__) && defined(__aarch64__)\n#include <arm_neon.h>\n#endif\n"
)
"""What converting narrow weights needs."""

_STORED = {
    Storage.FLOAT32: "float32",
    Storage.FLOAT16: f"float32, matrices with {LARGE:.0%} of them or more as float16; all arithmetic is float32",
    Storage.INT8: f"float32, matrices with {LARGE:.0%} of them or more as int8; all arithmetic is float32",
}


def header_text(network: VisionActorCritic, contract: Contract, golden: GoldenSamples, form: str = "cpp") -> str:
    """Return a header of a bundle.

    Args:
        network: the checkpoint's network.
        contract: the bundle's contract.
        golden: the bundle's golden samples.
        form: "cpp", "cpp-fp16" or "cpp-int8": how large matrices are stored.

    Raises:
        OptionError: the policy cannot be written as C++, a weight is too large for float16, or the contract does not
            say how metres become the image.
    """
    storage = FORMATS[form]
    depth = contract.observation.depth
    if depth.clip_m is None or depth.divisor_m is None:
        raise OptionError(
            f"--format {form}: how metres become the depth image is unknown; give depth_range_m in --vehicle FILE"
        )
    program = program_of(network, contract.gate is not None)
    text = network_text(program, storage)
    arrays = "".join(array_declaration(name, values) for name, values in text.arrays.items())
    size = sum(values.size for values in text.arrays.values()), sum(values.nbytes for values in text.arrays.values())
    loads = "\n" if storage is Storage.FLOAT32 else f"{_part(f'{storage}.hpp')}\n"
    kernels = (
        _part("kernels.hpp")
        .replace("@LOADS@\n", loads)
        .replace("}  // namespace kernels\n", f"{text.types}\n}}  // namespace kernels\n")
    )
    prelude = _part("prelude.hpp").replace("@INCLUDES@", "" if storage is Storage.FLOAT32 else _INCLUDES)
    policy = (
        _part("policy.hpp")
        .replace("@BUFFERS@", text.buffers)
        .replace("@ENCODER@", text.encoder)
        .replace("@HEADS@", text.heads)
    )
    parts = (
        introduction(contract, program, GENERATOR, size, _STORED[storage]).replace(
            "-mavx2 -mfma", "-mavx2 -mfma -mf16c" if storage is Storage.FLOAT16 else "-mavx2 -mfma"
        ),
        _guard(HEADERS[form]),
        prelude.replace("policy.hpp", HEADERS[form]),
        "\nnamespace deploy_kit_policy {\n"
        "// Named after the content, so that two policies in one program stay apart.\n"
        f"inline namespace {_NAMESPACE} {{\n\n",
        constants_text(contract, program),
        "\n// ---- weights, in the order in which the kernels read them ----\n",
        arrays,
        "\n",
        kernels,
        "\n",
        _golden_text(golden, program, storage),
        "\n",
        policy,
        f"\n}}  // namespace {_NAMESPACE}\n}}  // namespace deploy_kit_policy\n",
        _part("c_interface.hpp"),
        "\n#endif  // DEPLOY_KIT_POLICY_HPP\n",
    )
    whole = "".join(parts)
    return whole.replace(_NAMESPACE, f"policy_{hashlib.sha256(whole.encode()).hexdigest()[:16]}")


def _guard(name: str) -> str:
    """Return the beginning of the include guard; another header after this one would be passed over in silence."""
    own = f"DEPLOY_KIT_HAS_{_NAMESPACE}"
    return (
        f"#if defined(DEPLOY_KIT_POLICY_HPP) && !defined({own})\n"
        f'#error "{name}: another policy is included in this file already; include each in a file of its own"\n'
        "#endif\n"
        f"#ifndef DEPLOY_KIT_POLICY_HPP\n#define DEPLOY_KIT_POLICY_HPP\n#define {own}\n\n"
    )


def _part(name: str) -> str:
    return files("deploy_kit.cpp").joinpath("parts", name).read_text(encoding="utf-8")


def _golden_text(golden: GoldenSamples, program: Program, storage: Storage) -> str:
    """Return the samples of the self-test: the first one, and of the others that with the highest gate logit."""
    rows = [0]
    if len(golden) > 1:
        rows.append(len(golden) - 1 if golden.gate_logit is None else 1 + int(np.argmax(golden.gate_logit[1:, 0])))
    observation, action = golden.observation[rows], golden.action[rows]
    logit = terms = np.zeros((len(rows), 1), np.float32)
    if program.gate and golden.gate_logit is not None and golden.gate_terms is not None:
        logit, terms = golden.gate_logit[rows], golden.gate_terms[rows]
    gave = "what PyTorch gave for them"
    if storage is not Storage.FLOAT32:
        # By these weights: a test against PyTorch's own would let pass whatever rounding them changes, and more.
        outputs = StoredNetwork(program, storage, ordered=True)(observation)
        action, logit = outputs["action"].astype(np.float32), outputs.get("gate_logit", logit).astype(np.float32)
        gave = "what the weights above give, computed in float64"
    arrays = {
        "kGoldenObservation": observation,
        "kGoldenAction": action,
        "kGoldenLogit": logit,
        "kGoldenTerms": terms,
    }
    text = "".join(
        f"inline const float {name}[{values.size}] = {{\n{array_text(values)}}};\n" for name, values in arrays.items()
    )
    return (
        f"// ---- golden samples: normalised observations, and {gave} ----\n"
        "#if !defined(DEPLOY_KIT_NO_SELF_TEST)\n"
        f"constexpr int kGoldenSamples = {len(rows)};\n"
        f"constexpr double kGoldenTolerance = {TOLERANCE};\n"
        f"{text}#endif\n"
    )
