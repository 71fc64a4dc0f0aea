"""Every reason for which the runner refuses a bundle or an input, by name."""

from enum import Enum


class Fault(Enum):
    """What went wrong; the flight controller decides what to do about each."""

    BUNDLE_INCOMPLETE = "bundle_incomplete"
    BUNDLE_ALTERED = "bundle_altered"
    NOT_SIGNED = "not_signed"
    SIGNATURE_WRONG = "signature_wrong"
    SIGNATURE_UNCHECKED = "signature_unchecked"
    UNSIGNED_FILE = "unsigned_file"
    CONTRACT_VERSION = "contract_version"
    CONTRACT_INVALID = "contract_invalid"
    RUNTIME = "runtime"
    NOT_VERIFIED = "not_verified"
    GOLDEN_MISMATCH = "golden_mismatch"
    STATE_SHAPE = "state_shape"
    STATE_TYPE = "state_type"
    STATE_NOT_FINITE = "state_not_finite"
    STATE_OUT_OF_RANGE = "state_out_of_range"
    STATE_STALE = "state_stale"
    DEPTH_SHAPE = "depth_shape"
    DEPTH_TYPE = "depth_type"
    DEPTH_NOT_A_NUMBER = "depth_not_a_number"
    DEPTH_OUT_OF_RANGE = "depth_out_of_range"
    DEPTH_STALE = "depth_stale"
    DEPTH_UNIT = "depth_unit"
    DEPTH_BLIND = "depth_blind"
    CLOCK = "clock"
    STEP_EARLY = "step_early"
    STEP_LATE = "step_late"
    CONCURRENT = "concurrent"
    COMMAND = "command"
    OPTIONS = "options"
    LOG = "log"
    ASSEMBLY = "assembly"
    OUTPUT_NOT_FINITE = "output_not_finite"


class OnboardFault(Exception):  # noqa: N818 # the field's word
    """The runner refuses to go on.

    Args:
        fault: which fault.
        message: what is wrong, where, and what to do.

    Attributes:
        fault: which fault.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(f"{fault.value}: {message}")
        self.fault = fault
