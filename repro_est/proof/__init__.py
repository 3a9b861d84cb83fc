"""Proof: what can be shown of a run to somebody who does not believe it.

`compare` and `verdicts` say whether executing a plan again gave the same, `statement`, `bill` and `checklist` what a
run was made of, `capsule` carries a whole run to another machine.
"""
