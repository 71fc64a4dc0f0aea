"""How much may differ. Verdicts come from here alone; what was measured is stored apart from them.

The numbers are in `profiles.json`, by profile: what float32 arithmetic in another order may do, what TF32, float16 and
int8 may. A user's own profile is a file that names the one it is based on and its own limits.
"""

import json
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deploy_kit.bundle.codec import DecodeError, decode, encode
from deploy_kit.errors import OptionError
from deploy_kit.files import read_json_object
from deploy_kit.text import did_you_mean

PROFILES_PATH = Path(__file__).with_name("profiles.json")
"""The profiles that are shipped."""

PROFILE_VERSION = 1
"""Version of a profile's file; raised whenever a limit changes its meaning, appears or goes."""

_SHIPPED: dict[str, dict[str, Any]] = json.loads(PROFILES_PATH.read_text(encoding="utf-8"))["profiles"]

PROFILES: tuple[str, ...] = tuple(_SHIPPED)
"""Names of the profiles that are shipped."""

DEFAULT_PROFILE = "fp32"
TF32_PROFILE = "tf32"

_DEFAULTS = _SHIPPED[DEFAULT_PROFILE]


def limit_text(limit: float) -> str:
    """Return a limit as text that is the limit itself, not rounded: 1e-05, 0.15."""
    short = f"{limit:.0e}"
    return short if float(short) == limit else repr(limit)


@dataclass(frozen=True)
class Tolerance:
    """Largest difference allowed between two numbers: ``absolute + relative * |reference|``.

    Attributes:
        absolute: part in the output's unit (its transform's scale, for physical commands).
        relative: share of the reference's magnitude.
    """

    absolute: float
    relative: float

    def share(self, error: float, reference: float) -> float:
        """Return which share of the tolerance an error uses up; above 1 it fails, and so does NaN."""
        allowed = self.absolute + self.relative * abs(reference)
        if allowed == 0.0:
            return 0.0 if error == 0.0 else math.inf
        used = error / allowed
        return used if not math.isnan(used) else math.inf

    def __str__(self) -> str:
        return f"{limit_text(self.absolute)} + {limit_text(self.relative)}·|ref|"


FP32_PARITY = Tolerance(**_DEFAULTS["parity"])
"""Same float32 arithmetic in another order. The reference policy's worst of 61 000 rows used 0.30 of it."""


@dataclass(frozen=True)
class FlightMargins:
    """How far flights may differ on average over episodes, ± each.

    Attributes:
        gates: passed in an episode.
        crashed: share of episodes that end by a crash.
        speed: mean speed, m/s.
    """

    gates: float
    crashed: float
    speed: float

    def of(self, figure: str) -> float:
        """Return the margin of a figure by its name."""
        margin: float = getattr(self, figure)
        return margin


@dataclass(frozen=True)
class Thresholds:
    """All limits of one verification.

    Attributes:
        profile: name of the profile.
        parity: artifact against checkpoint, per element.
        stored_features: features stored in the feature file, which were computed on whatever device collected them,
            against the checkpoint's.
        decision_band: a gate decision may flip if the checkpoint's logit is closer to the threshold than this.
        flip_share: share of a check's decisions that may flip in spite of that.
        min_episodes: fewest episodes of a flight that says anything.
        min_gates: fewest gates an episode that the checkpoint must pass; a policy that does not fly shows nothing.
        margins: the interval of the difference of each flight figure must lie within these.
        quick_margins: the same for a run that was not asked to fly until the margins are reached.
    """

    profile: str = DEFAULT_PROFILE
    parity: Tolerance = field(default=FP32_PARITY)
    stored_features: Tolerance = field(default=Tolerance(**_DEFAULTS["stored_features"]))
    decision_band: float = _DEFAULTS["decision_band"]
    flip_share: float = _DEFAULTS["flip_share"]
    min_episodes: int = _DEFAULTS["min_episodes"]
    min_gates: float = _DEFAULTS["min_gates"]
    margins: FlightMargins = field(default=FlightMargins(**_DEFAULTS["margins"]))
    quick_margins: FlightMargins = field(default=FlightMargins(**_DEFAULTS["quick_margins"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data: dict[str, Any] = encode(self)
        return data


def load_profile(name: str) -> Thresholds:
    """Return the limits of a shipped profile, or of a file of the user's own.

    The file is a JSON object with ``profile_version``, ``profile`` (its name), ``based_on`` (a shipped profile; fp32 if
    left out) and ``limits``: those that differ from it.

    Args:
        name: name of a shipped profile, or path of a file.

    Raises:
        OptionError: there is no such profile, or the file holds no usable one.
    """
    if name in _SHIPPED:
        return shipped_profile(name)
    path = Path(name)
    if not path.is_file():
        raise OptionError(f"profile {name!r} is neither a file nor one that is shipped{did_you_mean(name, PROFILES)}")
    data = read_json_object(path)
    if data.get("profile_version") != PROFILE_VERSION:
        raise OptionError(
            f"{path}: profile_version is {data.get('profile_version')!r}, this deploy-kit reads {PROFILE_VERSION}"
        )
    if unknown := sorted(set(data) - {"profile_version", "profile", "based_on", "limits"}):
        raise OptionError(f"{path}: unknown field {unknown[0]!r}; limits go into 'limits'")
    title, base, limits = data.get("profile"), data.get("based_on", DEFAULT_PROFILE), data.get("limits")
    if not isinstance(title, str) or not title or title in _SHIPPED:
        raise OptionError(f"{path}: 'profile' must be a name of its own, not {title!r}")
    if not isinstance(base, str) or base not in _SHIPPED:
        raise OptionError(f"{path}: 'based_on' is {base!r}, expected one of {', '.join(PROFILES)}")
    if not isinstance(limits, dict) or "profile" in limits:
        raise OptionError(f"{path}: 'limits' must be an object with the limits that differ from {base}")
    return _decoded({"profile": title, **_SHIPPED[base], **limits}, str(path))


@cache
def shipped_profile(name: str) -> Thresholds:
    """Return the limits of a shipped profile, KeyError if there is none of that name."""
    return _decoded({"profile": name, **_SHIPPED[name]}, name)


def _decoded(data: dict[str, Any], where: str) -> Thresholds:
    try:
        limits = decode(Thresholds, data, "limits")
    except DecodeError as error:
        raise OptionError(f"{where}: {error}") from error
    numbers = _numbers(encode(limits))
    if negative := [name for name, value in numbers.items() if value < 0]:
        raise OptionError(f"{where}: {negative[0]} is {numbers[negative[0]]}, which no difference is below")
    if limits.min_episodes < 2:
        raise OptionError(f"{where}: min_episodes is {limits.min_episodes}; an interval needs at least 2")
    return limits


def _numbers(data: dict[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{prefix}{name}.")
        elif not isinstance(value, str):
            numbers[f"{prefix}{name}"] = value
    return numbers
