"""Names of the checks of C++ headers in flight, and why one was not made."""

from collections.abc import Iterator, Sequence

from deploy_kit.verify.findings import NotRun


def header_checks(form: str) -> tuple[str, str, str]:
    """Return what is checked of a header in flight: outputs in PyTorch's shadow, its memory there, driving.

    Args:
        form: "cpp", "cpp-fp16" or "cpp-int8".
    """
    return f"live/shadow@{form}", f"live/shadow@{form}-steps", f"live/driving@{form}"


def header_not_flown(
    form: str, modes: Sequence[str] | None, flown: set[str], opened: bool, switch: str | None
) -> Iterator[NotRun]:
    """Yield the checks of a header's flights that were not made, and why.

    Args:
        form: of the header.
        modes: live modes asked for, None without flights.
        flown: names of the checks that were made.
        opened: whether it was built.
        switch: option by which the user switched it off, None for none.
    """
    shadow, steps, _ = header_checks(form)
    for name in (name for name in header_checks(form) if name not in flown):
        if switch is not None:
            yield NotRun(name, switch, switch)
        elif modes is None:
            yield NotRun(name, "--no-live", "--no-live")
        elif not opened:
            yield NotRun(name, "not opened: a check above says why")
        elif name.removeprefix("live/").partition("@")[0] not in modes:
            yield NotRun(name, "not among the live modes asked for", "--live-mode")
        elif name == steps and shadow in flown:
            yield NotRun(name, "--no-vehicle: its network flew alone, from normalised observations", "--no-vehicle")
        else:
            yield NotRun(name, "not flown: a check above says why")
