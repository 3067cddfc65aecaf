"""The command line: parse, call the pipeline, print. Every command has --json for machines."""

from __future__ import annotations

import sys

import click

from mcugen.cli import boards, firmware, quality  # noqa: F401  they add their commands
from mcugen.cli.terminal import mcugen


def main() -> None:
    """Entry point: what no McugenError explains is our own defect and exits with 70."""
    try:
        mcugen(prog_name="mcugen")
    except Exception as error:
        click.echo(f"Internal error: {type(error).__name__}: {error}", err=True)
        click.echo("  this is a defect of mcugen: please report it with the command line", err=True)
        sys.exit(70)
