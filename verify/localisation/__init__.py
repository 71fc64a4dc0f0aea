"""Localisation: where a bundle that failed first differs from the checkpoint, and the likely cause in words.

`layers` finds the first layer, `hypotheses` computes what known faults would give, `diagnosis` puts both into words.
Nothing here decides a verdict.
"""
