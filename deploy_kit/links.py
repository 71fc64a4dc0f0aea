"""Tells a checkout whose symbolic links came out as text files: for the command line, setup.py and the scripts.

Run as a script, it says what is wrong and exits with 2. It needs the standard library alone.
"""

import sys
from pathlib import Path


def links_problem(package: Path) -> str | None:
    """Say what is wrong with a checkout without symbolic links, None if nothing is.

    Args:
        package: folder ``deploy_kit``.
    """
    broken = [name for name in ("export", "verify") if not (package / name).is_dir()]
    if not broken:
        return None
    paths = " and ".join(str(package / name) for name in broken)
    return (
        f"{paths} should be symbolic links to the folders beside deploy_kit, but this copy was made without links "
        "(git with core.symlinks=false, or a zip unpacked on Windows): clone again with "
        "git clone -c core.symlinks=true (Windows: in developer mode), or install a wheel"
    )


if __name__ == "__main__" and (problem := links_problem(Path(__file__).resolve().parent)):
    sys.stderr.write(f"Error: {problem}\n")
    sys.exit(2)
