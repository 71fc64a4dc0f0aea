"""Let atheris look for files that break a reader, guided by which of its lines and branches they reach.

Usage: pip install atheris; python benchmarks/fuzz_coverage.py READER [--seconds 600] [--corpus FOLDER]

READER: checkpoint, torchscript, yaml or contract. Beginning with a sound file, inputs are changed and kept where they
reach something new. Anything but deploy-kit's own error in one printable line ends the run with the input beside it, as
does a reader that takes more than 30 s or 2 GB. atheris has packages for Linux and Python 3.11 to 3.13.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["deploy_kit", "zipfile", "pickletools", "yaml"]):
    from deploy_kit.errors import DeployKitError
    from helpers.bundles import Run, make_run
    from helpers.corruption import kinds, one_thread, place

NAMES = {"checkpoint": "checkpoint", "torchscript": "TorchScript", "yaml": "YAML", "contract": "contract"}


def main() -> None:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=list(NAMES))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-coverage-"))
    run: Run = make_run(folder)
    (folder / "sound").mkdir()
    kind = next(kind for kind in kinds(run, folder / "sound") if kind.name == NAMES[arguments.reader])
    path = place(kind, folder / "file")
    corpus = arguments.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "sound").write_bytes(kind.content)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            kind.read(path)
        except DeployKitError as error:
            if not str(error).isprintable():
                raise AssertionError(f"message with control characters: {error!s:.200}") from error

    words = [f"-max_total_time={arguments.seconds}", "-timeout=30", "-rss_limit_mb=4096", f"-max_len={2**17}"]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
