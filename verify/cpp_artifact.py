"""The C++ headers of a bundle: compared as text with what the checkpoint implies, then built and run."""

from collections.abc import Callable

import numpy as np

from deploy_kit.bundle.reader import HEADERS
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs
from deploy_kit.cpp.compiler import CompilerError, find_compiler
from deploy_kit.cpp.evaluation import StoredNetwork
from deploy_kit.cpp.header import header_text
from deploy_kit.cpp.program import program_of
from deploy_kit.cpp.reading import differences
from deploy_kit.cpp.storage import FORMATS
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.structure.confinement import unavailable
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

_BUILT = "built by a C++ compiler, golden self-test run where it can neither write nor start anything"


def open_cpp(subject: BundleAndCheckpoint, form: str, checks: list[Check], run: bool) -> SandboxedLibrary | None:
    """Compare a bundle's header, and build and load it if it is right to the last character.

    Args:
        subject: bundle and checkpoint.
        form: "cpp", "cpp-fp16" or "cpp-int8".
        checks: what is found is added here.
        run: whether it is to be built and run.

    Returns:
        The built header, None if it cannot or must not be run.
    """
    text, build = _compared(subject, form, checks), f"{form}/run"
    if text is None:
        return None
    if not run:
        checks.append(NotRun(build, "--no-cpp", "--no-cpp"))
        return None
    if (reason := unavailable()) is not None:
        checks.append(NotRun(build, f"{reason}; --no-cpp goes without"))
        return None
    if find_compiler() is None:
        checks.append(NotRun(build, "no C++ compiler was found (apt-get install g++); --no-cpp goes without"))
        return None
    try:
        library = SandboxedLibrary(text)
    except (CompilerError, ArtifactError) as error:
        checks.append(FactCheck(build, _BUILT, 1, (str(error),)))
        return None
    problems = () if library.passes_self_test else ("its golden self-test fails",)
    checks.append(FactCheck(build, _BUILT, 1, problems))
    return library


def stored_outputs(subject: BundleAndCheckpoint, form: str) -> Callable[[Float32], Outputs]:
    """Return what a header's stored weights give, in float64: all that a right build can differ from by rounding."""
    network, transform = subject.checkpoint.network, subject.reference.transform
    evaluate = StoredNetwork(program_of(network, subject.contract.gate is not None), FORMATS[form])

    def run(observation: Float32) -> Outputs:
        outputs = evaluate(observation)
        return {
            **{name: values.astype(np.float32) for name, values in outputs.items()},
            "command": transform.apply(outputs["action"].astype(np.float32)),
        }

    return run


def _compared(subject: BundleAndCheckpoint, form: str, checks: list[Check]) -> str | None:
    """Return the header's text if it is what would have been written, else None; add the check that says so."""
    bundle = subject.bundle
    # Contract and golden samples have checks of their own, against checkpoint and vehicle.
    expected = header_text(subject.checkpoint.network, bundle.contract, bundle.golden, form)
    data = bundle.read(HEADERS[form])
    lines = expected.count("\n")
    problems: tuple[str, ...]
    if len(data) > 2 * len(expected):
        problems = (f"it has {len(data)} bytes, expected {len(expected.encode())}",)
    else:
        try:
            problems = differences(data.decode("utf-8"), expected)
        except UnicodeDecodeError:
            problems = ("it is not UTF-8 text",)
    compared = "each line and each weight, read as data, against what checkpoint, contract and golden samples imply"
    checks.append(FactCheck(f"{form}/text", compared, lines, problems))
    return None if problems else expected
