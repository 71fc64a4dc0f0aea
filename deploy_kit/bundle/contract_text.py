"""JSON text of the contracts of all policies: written, read, and refused in one line."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from deploy_kit.bundle.codec import DecodeError, decode, encode
from deploy_kit.errors import BundleError
from deploy_kit.strict_json import strict_json

T = TypeVar("T")

POLICY_KIND = "policy"
"""What `kind` is in contracts of any other policy; those of `VisionActorCritic` have no such field."""


def text_of(contract: object, indent: int | None) -> str:
    """Return a contract as JSON text; the same contract always gives the same text."""
    return json.dumps(encode(contract), indent=indent, allow_nan=False, ensure_ascii=False)


def kind_of(text: str) -> Any:
    """Return the field `kind` of a contract's text, None where there is none or the text is no JSON object."""
    try:
        data = strict_json(text)
    except (ValueError, RecursionError):
        return None
    return data.get("kind") if isinstance(data, dict) else None


def contract_data(text: str, where: str) -> Any:
    """Return what a contract's text holds.

    Args:
        text: JSON text.
        where: what to call the text in messages.

    Raises:
        BundleError: it is no JSON.
    """
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error}); export the bundle again") from error


def decoded(cls: type[T], data: Any, version: int, where: str) -> T:
    """Return the contract that data are of.

    Args:
        cls: class of the contract.
        data: as `contract_data` returns them.
        version: the schema version that is read.
        where: what to call the text in messages.

    Raises:
        BundleError: another schema version, or a field is unknown, missing or mistyped.
    """
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != version:
        raise BundleError(
            f"{where}: contract schema version {found!r}, this deploy-kit reads version {version}; make the bundle "
            "anew: deploy-kit export --checkpoint CHECKPOINT --overwrite, with the options it was exported with"
        )
    try:
        return decode(cls, data, "contract")
    except DecodeError as error:
        raise BundleError(f"{where}: {error}; export the bundle again") from error


def require_all(checks: Mapping[str, bool], where: str) -> None:
    """Raise BundleError with the first check that fails.

    Args:
        checks: what is wrong where a check fails, with whether it holds.
        where: what to call the text in messages.
    """
    for message, passed in checks.items():
        if not passed:
            raise BundleError(f"{where}: {message}; export the bundle again")
