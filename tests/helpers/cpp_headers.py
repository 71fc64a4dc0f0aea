"""C++ headers of small policies, bundles that hold one, and changes to it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import HEADERS, GoldenSamples, manifest_text, open_bundle
from deploy_kit.cpp.compiler import build_library
from deploy_kit.cpp.header import header_text
from deploy_kit.cpp.library import PolicyLibrary
from deploy_kit.cpp.literals import float_literal
from deploy_kit.export.samples import make_golden
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.task.interface import ActionTransform
from helpers.bundles import Run, copy_bundle
from helpers.networks import make_observations

QUICK = ("-O1",)
"""Flags for builds whose speed does not matter."""


def header_of(network: VisionActorCritic, contract: Contract) -> str:
    """Write the header of a network that has another shape than the contract's, but its state."""
    depth, layout = contract.observation.depth, network.config.layout
    rows, columns = layout.image_shape
    observation = replace(contract.observation, size=layout.size, depth=replace(depth, rows=rows, columns=columns))
    fitting = replace(contract, observation=observation, gate=contract.gate if network.config.gate_head else None)
    return header_text(network, fitting, golden_of(network))


def golden_of(network: VisionActorCritic, rows: int = 3) -> GoldenSamples:
    """Make golden samples of drawn observations."""
    observation = make_observations(network, rows)
    transform = ActionTransform.from_limits(3.0, 6.0)
    return make_golden(network, observation, ["drawn"] * rows, "synthetic", transform, gate=network.config.gate_head)


def build(text: str, folder: Path, flags: Sequence[str] = QUICK) -> PolicyLibrary:
    """Build a header and load it."""
    return PolicyLibrary(build_library(text, folder, tuple(flags)))


def with_header(
    run: Run, folder: Path, change: Callable[[str], str] = lambda text: text, forms: Sequence[str] = ("cpp",)
) -> Run:
    """Copy a bundle and put C++ headers into it, changed, listed in the manifest."""
    bundle = copy_bundle(run.bundle, folder / "bundle")
    opened = open_bundle(bundle)
    for form in forms:
        text = change(header_text(run.network, opened.contract, opened.golden, form))
        (bundle / HEADERS[form]).write_bytes(text.encode())
    (bundle / "manifest.json").write_text(manifest_text(bundle), encoding="utf-8")
    return replace(run, bundle=bundle)


def replaced(old: str, new: str) -> Callable[[str], str]:
    """Return a change of the one place where a text stands."""

    def change(text: str) -> str:
        assert text.count(old) == 1, (old, text.count(old))
        return text.replace(old, new)

    return change


def first_number(array: str, change: Callable[[np.float32], np.float32]) -> Callable[[str], str]:
    """Return a change of the first number of an array."""

    def mutate(text: str) -> str:
        start = text.index("\n", text.index(f"float {array}[")) + 3
        end = text.index(",", start)
        value = change(np.float32(float.fromhex(text[start : end - 1])))
        return text[:start] + float_literal(value) + text[end:]

    return mutate


def first_whole(array: str, change: Callable[[str], str]) -> Callable[[str], str]:
    """Return a change of the first literal of an array of whole numbers, named with its type."""

    def mutate(text: str) -> str:
        start = text.index("\n", text.index(f"{array}[")) + 3
        end = text.index(",", start)
        return text[:start] + change(text[start:end]) + text[end:]

    return mutate
