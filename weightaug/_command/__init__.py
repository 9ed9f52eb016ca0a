"""The command ``weightaug``. Needs tyro (``pip install 'weightaug[cli]'``), which is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Of the command line; None for those of this process.

    Returns:
        0 if all is well, 1 if something was refused or does not hold, 2 if the command could not be carried out.
    """
    try:
        import tyro
    except ImportError:
        print("the command weightaug needs tyro; install it with: pip install 'weightaug[cli]'", file=sys.stderr)
        return 2
    from weightaug._command import commands

    subcommands = {c.__name__: c for c in (commands.convert, commands.inspect, commands.check, commands.certify)}
    try:
        return int(tyro.extras.subcommand_cli_from_dict(subcommands, prog="weightaug", args=arguments))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError) as error:
        print(f"weightaug: {error}", file=sys.stderr)
        return 2
