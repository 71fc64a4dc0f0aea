import json


def test_a_table_and_json(cli, run, tmp_path):
    quick = ("bench", run.bundle, "--steps", 50, "--paced-steps", 1, "--rate", 1000, "--no-start", "--no-torchscript")
    shown = cli(*quick, "--plot", tmp_path / "bench.png")
    assert shown.code == 0, shown.stderr
    for word in ("back to back, µs", "one step each 1 ms, µs", "onnx, io binding, cpu-all-1", "pytorch, eager"):
        assert word in shown.stdout
    assert "not run: torchscript: --no-torchscript" in shown.stdout
    assert (tmp_path / "bench.png").is_file()
    data = json.loads(cli(*quick, "--json").stdout)
    assert [row["artifact"] for row in data["rows"]] == ["onnx", "onnx", "onnx", "pytorch"]


def test_what_cannot_be_used(refused, tmp_path):
    refused("bench", tmp_path / "none", words=("no such bundle folder",))
    refused("bench", tmp_path, "--plot", "bench.svg", words=("ends in .png",))
    refused("bench", tmp_path, "--rate", 0, words=("--rate",))
