"""The proof that a bundle is the checkpoint it claims to be: static checks, replay, live flights, report.

Importing this package loads nothing heavy. `deploy_kit.verify.verifier` runs the checks, `deploy_kit.verify.report`
holds what came out.
"""
