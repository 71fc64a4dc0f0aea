"""From a checkpoint to a bundle: ONNX, TorchScript, safetensors, contract, golden samples, manifest.

Importing this package loads nothing heavy. `deploy_kit.export.bundle` reads bundles,
`deploy_kit.export.exporter` writes them.
"""
