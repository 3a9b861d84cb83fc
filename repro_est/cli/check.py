"""Validate a recipe without running it.

Looks at the recipe, the lock, and the source: syntax, imports against the lock, missing files, unused inputs.
Exit code 0 with warnings only, 2 with an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import add_json, add_recipe
from repro_est.console import Console
from repro_est.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.lock.lockfile import loads
    from repro_est.lock.satisfy import unsatisfied
    from repro_est.recipe.check import Finding, check
    from repro_est.recipe.load import load

    console = Console()
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    path = recipe.lock_path
    lock = loads(path.read_bytes(), path) if path.exists() else None
    findings = list(check(recipe, lock))
    if lock is None:
        findings.append(
            Finding(
                "warning", str(path), None, "no lock yet, imports were not checked", f"repro lock {arguments.recipe}"
            )
        )
    else:
        findings += [
            Finding("error", str(path), None, reason, f"repro lock {arguments.recipe}")
            for reason in unsatisfied(recipe, lock)
        ]
    errors = sum(finding.severity == "error" for finding in findings)
    if arguments.json:
        console.json(
            {"recipe": str(recipe.path), "ok": not errors, "findings": [finding.to_json() for finding in findings]}
        )
        return UsageError.exit_code if errors else 0
    for finding in findings:
        console.out(str(finding))
    console.out(
        f"{arguments.recipe}: {errors} errors, {len(findings) - errors} warnings"
        if findings
        else f"{arguments.recipe}: ok"
    )
    return UsageError.exit_code if errors else 0
