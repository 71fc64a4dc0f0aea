"""Damage files of every kind that deploy-kit reads, and count what reading them comes to.

Usage: python benchmarks/fuzz_readers.py [--files 10000] [--kinds "feature file" checkpoint …] [--seed 0]

Each file gets one to four faults at random places: flipped bits, random, zero or 0xFF bytes, a cut, bytes missing,
doubled or exchanged, large numbers. Reading it must raise deploy-kit's own error in one printable line, or give what
was written; files without a hash or checksum may also give other finite data. Anything else is WRONG: another
exception, a crash, more than 30 s, more than 2 GB. Files are read in processes of their own, 1000 at a time, so that a
crash is seen.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.bundles import Run, make_run  # noqa: E402  # after the path
from helpers.corruption import NAMES, corrupt, judge, kinds, one_thread, place  # noqa: E402  # after the path

BATCH = 1000


def child(run_folder: Path, name: str, seed: int, start: int, count: int) -> None:
    """Try some files, and print what they came to."""
    one_thread()
    warnings.simplefilter("ignore")
    run = Run(None, run_folder / "model_7.safetensors", run_folder / "features.h5", run_folder / "bundle")
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as own:
        kind = next(kind for kind in kinds(run, Path(own)) if kind.name == name)
        path = place(kind, Path(own) / "file")
        expected = kind.read(path)
        for number in range(start, start + count):
            path.write_bytes(corrupt(kind.content, np.random.default_rng((seed, number))))
            (run_folder / "last").write_text(f"{name}, file {number} of seed {seed}")
            found[judge(kind, path, expected)] += 1
    print(json.dumps(found))


def batch(run_folder: Path, name: str, seed: int, start: int, count: int) -> Counter[str]:
    """Try some files in a process of their own."""
    words = ["--child", str(run_folder), name, str(seed), str(start), str(count)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (run_folder / "last").read_text() if (run_folder / "last").exists() else "the first file"
        return Counter({f"WRONG: exit code {done.returncode} at {last}: {done.stderr[-300:]!r}": 1})
    return Counter(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Parse the command line and try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=NAMES)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.child:
        folder, name, *numbers = arguments.child
        child(Path(folder), name, *map(int, numbers))
        return
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        for name in arguments.kinds or NAMES:
            started, found = time.monotonic(), Counter[str]()
            for start in range(0, arguments.files, BATCH):
                found += batch(Path(folder), name, arguments.seed, start, min(BATCH, arguments.files - start))
                print(json.dumps({"kind": name, **found, "seconds": round(time.monotonic() - started)}), flush=True)
            wrong += sum(count for verdict, count in found.items() if verdict.startswith("WRONG"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
