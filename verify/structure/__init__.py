"""Structure: what an artifact is built of, proven for all inputs before anything of it is run.

`onnx_file` and `torchscript_file` read an artifact as data and refuse what is not on their lists. Both give a `graph`,
and `proof` walks it from the outputs to the inputs along the network that the checkpoint holds: every operator, every
attribute, every weight.
"""
