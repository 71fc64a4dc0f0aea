"""From a checkpoint to a bundle: ONNX, TorchScript, safetensors, contract, golden samples, manifest.

Importing this package loads nothing heavy. `deploy_kit.bundle.reader` reads bundles,
`deploy_kit.export.exporter` writes them.
"""
