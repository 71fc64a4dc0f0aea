"""What the bundle says about itself, held against what checkpoint, run and vehicle imply.

The contract is rebuilt by `bundle.implied`, as export writes it, and every field is compared, those that a later
version adds among them.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from deploy_kit.bundle.codec import encode
from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.graph_options import graph_options_of
from deploy_kit.bundle.implied import (
    EXEMPT,
    FROM_VEHICLE,
    OPTIONAL,
    base_source,
    claimed_meaning,
    claimed_vehicle,
    describe,
)
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.reader import SAFETENSORS_NAME, Bundle
from deploy_kit.errors import InputError
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint
from deploy_kit.policy.run.env_file import ENV_FILE
from deploy_kit.text import one_line
from deploy_kit.verify.bundle_and_checkpoint import NamedVehicle
from deploy_kit.verify.report import Check, FactCheck, NotRun

Field = tuple[str, Any, Any]
"""(path, found in the bundle, expected)."""


def contract_checks(bundle: Bundle, checkpoint: Checkpoint, named: NamedVehicle) -> list[Check]:
    """Return the checks of the contract, one for each of its parts.

    Args:
        bundle: the bundle.
        checkpoint: the truth.
        named: the vehicle that the user names; without its numbers, what depends on them fails, or is not run if the
            user does not want it checked.
    """
    found = bundle.contract
    try:
        used = named.vehicle or claimed_vehicle(found)
        expected = describe(
            checkpoint,
            used,
            named.meaning or claimed_meaning(found),
            graph_options_of(found, checkpoint.network, used.action_transform),
            opset=found.versions.opset,
            ir_version=found.versions.ir_version,
            weights_sha256=bundle.files[SAFETENSORS_NAME],
            samples_sha256=found.provenance.samples_sha256,
        )
    except InputError as error:
        return [FactCheck("contract/fields", "rebuilt from checkpoint, run and vehicle", 1, (one_line(error),))]
    theirs, ours = encode(found), encode(expected)
    checks: list[Check] = []
    for part in ours:
        if part in EXEMPT:
            continue
        if named.vehicle is None and part in FROM_VEHICLE:
            checks.append(_unchecked(f"contract/{part}", named))
            continue
        compared = (
            f"every field against {used.source}" if part in FROM_VEHICLE else "every field against the checkpoint"
        )
        checks.append(compare_fields(f"contract/{part}", compared, list(fields_of(part, theirs[part], ours[part]))))
    return checks


def _unchecked(name: str, named: NamedVehicle) -> Check:
    if not named.wanted:
        return NotRun(name, "--no-vehicle", "--no-vehicle")
    return FactCheck(name, "every field against the vehicle's numbers", 1, (named.problem,))


def fields_of(path: str, found: Any, expected: Any) -> Iterator[Field]:
    """Yield all leaves of both trees, but for those that are exempt."""
    pattern = re.sub(r"\[\d+\]", "", path)
    if pattern in EXEMPT or (found is None and pattern in OPTIONAL):
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in expected | found:
            yield from fields_of(f"{path}.{key}", found.get(key), expected.get(key))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
            yield from fields_of(f"{path}[{index}]", theirs, ours)
    else:
        yield path, found, expected


def compare_fields(name: str, compared: str, fields: list[Field]) -> FactCheck:
    """Return the check that fields of a contract are as expected.

    Args:
        name: of the check.
        compared: what with what.
        fields: path, found value and expected value of each.
    """
    problems = tuple(_problem(*field) for field in fields if not _equal(*field))
    return FactCheck(name, compared, len(fields), problems)


def _problem(path: str, found: Any, expected: Any) -> str:
    text = f"{path} is {_shown(found)}, expected {_shown(expected)}"
    if path.endswith(".source") and isinstance(found, str) and found.startswith("file:"):
        text += "; give the file that export was given, with --vehicle"
    return text


def _equal(path: str, found: Any, expected: Any) -> bool:
    """Compare; numbers to the last digits of a double, since another machine's functions may round otherwise."""
    if path.endswith(".source") and isinstance(found, str) and isinstance(expected, str):
        # A file may have been renamed since, and may repeat the numbers of run or task.
        theirs, ours = (base_source(source).partition(":")[0] for source in (found, expected))
        return theirs == ours or (ours == "file" and theirs in ("task", ENV_FILE))
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, int) and isinstance(expected, int):
        # Of any size, also one that no float has.
        return found == expected
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(found, expected, rel_tol=1e-12, abs_tol=0.0)
    return type(found) is type(expected) and bool(found == expected)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def checkpoint_check(
    contract: Contract | PolicyContract, checkpoint: Checkpoint | PolicyCheckpoint, weights: FactCheck
) -> FactCheck:
    """Return the check of the checkpoint file's hash; another file with the same tensors passes, and is named.

    Args:
        contract: names the file that was exported.
        checkpoint: the file that the user gave.
        weights: the comparison of all tensors.
    """
    compared = f"{checkpoint.path.name} against the file that was exported"
    if contract.provenance.checkpoint_sha256 == checkpoint.sha256:
        return FactCheck("contract/checkpoint", compared, 1, ())
    claimed = f"{contract.provenance.checkpoint} (sha256 {contract.provenance.checkpoint_sha256[:12]}…)"
    if weights.problems:
        problem = f"the bundle comes from {claimed}, this checkpoint is {checkpoint.sha256[:12]}… and has other tensors"
        return FactCheck("contract/checkpoint", compared, 1, (problem,))
    note = f"the bundle comes from {claimed}, another file than this one, with the same tensors"
    return FactCheck("contract/checkpoint", compared, 1, (), note)
