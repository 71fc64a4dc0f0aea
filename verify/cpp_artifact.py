"""The C++ header of a bundle: compared as text with the one that the checkpoint implies, then built and run."""

from deploy_kit.bundle.reader import CPP_NAME
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.cpp.compiler import CompilerError, find_compiler
from deploy_kit.cpp.header import header_text
from deploy_kit.cpp.reading import differences
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.structure.confinement import unavailable
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

_BUILD, _BUILT = (
    "cpp/run",
    "built by a C++ compiler, golden self-test run where it can neither write nor start anything",
)


def open_cpp(subject: BundleAndCheckpoint, checks: list[Check], run: bool) -> SandboxedLibrary | None:
    """Compare a bundle's header, and build and load it if it is right to the last character.

    Args:
        subject: bundle and checkpoint.
        checks: what is found is added here.
        run: whether it is to be built and run.

    Returns:
        The built header, None if it cannot or must not be run.
    """
    text = _compared(subject, checks)
    if text is None:
        return None
    if not run:
        checks.append(NotRun(_BUILD, "--no-cpp", "--no-cpp"))
        return None
    if (reason := unavailable()) is not None:
        checks.append(NotRun(_BUILD, f"{reason}; --no-cpp goes without"))
        return None
    if find_compiler() is None:
        checks.append(NotRun(_BUILD, "no C++ compiler was found (apt-get install g++); --no-cpp goes without"))
        return None
    try:
        library = SandboxedLibrary(text)
    except (CompilerError, ArtifactError) as error:
        checks.append(FactCheck(_BUILD, _BUILT, 1, (str(error),)))
        return None
    problems = () if library.passes_self_test else ("its golden self-test fails",)
    checks.append(FactCheck(_BUILD, _BUILT, 1, problems))
    return library


def _compared(subject: BundleAndCheckpoint, checks: list[Check]) -> str | None:
    """Return the header's text if it is what would have been written, else None; add the check that says so."""
    bundle = subject.bundle
    # Contract and golden samples have checks of their own, against checkpoint and vehicle.
    expected = header_text(subject.checkpoint.network, bundle.contract, bundle.golden)
    data = bundle.read(CPP_NAME)
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
    checks.append(FactCheck("cpp/text", compared, lines, problems))
    return None if problems else expected
