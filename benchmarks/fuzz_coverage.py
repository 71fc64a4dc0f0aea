"""Let atheris look for files that break a reader, guided by which of its lines and branches they reach.

Usage: pip install atheris; python benchmarks/fuzz_coverage.py READER [--seconds 600] [--corpus FOLDER]

READER: one of the names in NAMES. Beginning with a sound file, inputs are changed and kept where they reach something
new. Anything but deploy-kit's own error in one printable line ends the run with the input beside it, as does a reader
that takes more than 30 s or 4 GB, and, of files with a hash or checksums, other data than were written. Of what is
written in C (HDF5, protobuf) atheris sees nothing: it is guided by what Python makes of it. atheris has packages for
Linux and Python 3.11 to 3.13.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["deploy_kit", "zipfile", "pickletools", "yaml", "safetensors", "onnx"]):
    from deploy_kit.errors import DeployKitError
    from helpers.bundles import Run, make_run
    from helpers.corruption import finite, kinds, one_thread, place, same

NAMES = {
    **{"checkpoint": "checkpoint", "safetensors": "safetensors", "features": "feature file", "shard": "shard"},
    **{
        "torchscript": "TorchScript",
        "onnx": "ONNX",
        "golden": "golden samples",
        "yaml": "YAML",
        "contract": "contract",
    },
}


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
    expected = kind.read(path)
    corpus = arguments.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "sound").write_bytes(kind.content)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = kind.read(path)
            assert same(found, expected) if kind.checked else finite(found), "other data than were written"
        except DeployKitError as error:
            if not str(error).isprintable():
                raise AssertionError(f"message with control characters: {error!s:.200}") from error

    words = [
        f"-max_total_time={arguments.seconds}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        f"-max_len={max(2**17, 2 * len(kind.content))}",
    ]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
