"""How fast a bundle is: each artifact in each engine, side by side in one run.

An artifact is run only after the static checks of `verify` have passed: each graph is proven to compute the network,
and TorchScript runs in the process that can neither write nor start anything.
"""
