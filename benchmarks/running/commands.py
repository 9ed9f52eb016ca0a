"""What every command of the benchmarks does with a user's mistakes: it finds them before the work, in one line.

Settings check themselves where they are made, with the functions here, so that a message names the option and its
range. :func:`command` turns what may go wrong in a user's hands into that one line; anything else is a fault of ours,
and keeps its traceback.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def command(*more: type[Exception]) -> Iterator[None]:
    """Ends the program with one line where the user, the disk or the installation is to blame.

    Args:
        more: Further exceptions whose message is meant for the user.

    Raises:
        SystemExit: With the message, of an OSError, ValueError or ImportError.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted") from None
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, ImportError, *more)):
            raise
        raise SystemExit(f"\n{said(error)}") from error


def parsed(kind: type[T], arguments: list[str] | None, description: str | None, default: T | None = None) -> T:
    """Settings from the command line, or the end of the program with what is wrong with them in one line.

    Args:
        kind: The dataclass of the settings.
        arguments: Of the command line; None for those of this process.
        description: Shown by --help.
        default: Where other values than the dataclass's are the defaults.

    Raises:
        ImportError: If tyro is not installed.
        SystemExit: With the message, or with 0 after --help.
    """
    try:
        import tyro
    except ImportError as error:
        raise ImportError("the command line needs tyro; install it with: pip install 'weightaug[bench]'") from error
    kept = io.StringIO()
    try:
        with redirect_stderr(kept):
            return tyro.cli(
                kind, args=arguments, description=description, **({} if default is None else {"default": default})
            )
    except SystemExit as error:
        if not error.code:
            raise
        # A frame drawn of lines would be the last that one sees.
        lines = [line.strip(" \t│╭╮╰╯─") for line in kept.getvalue().splitlines()]
        raise SystemExit("\n" + " ".join(line for line in lines if line)) from None


def said(error: BaseException) -> str:
    """The message of an error, with the file where it names one, and never empty."""
    # The repr of an OSError leaves its file out; the str of some others is empty, or a bare key.
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    return text if text and not isinstance(error, KeyError) else repr(error)


def writable(folder: Path, option: str = "--output") -> Path:
    """Makes sure that results can be written to a folder, before there are any.

    Raises:
        OSError: If they cannot; it names the folder and the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: cannot be written to ({error.strerror}); choose another folder with {option}"
        ) from error
    return folder


def expect(option: str, value: T, holds: bool, range_: str) -> T:
    """Returns the value of an option that is in its range.

    Raises:
        ValueError: If it is not; it names the option, the range and the value.
    """
    if not holds:
        raise ValueError(f"{option} must be {range_}, got {value}")
    return value


def at_least(option: str, value: float | None, least: float) -> None:
    """Checks that a number, if there is one, is finite and not below a bound."""
    if value is not None:
        expect(option, value, math.isfinite(value) and value >= least, f"at least {least:g}")


def positive(option: str, value: float | None) -> None:
    """Checks that a number, if there is one, is finite and above zero."""
    if value is not None:
        expect(option, value, math.isfinite(value) and value > 0, "above 0")


def share(option: str, value: float, *, most: float = 1.0) -> None:
    """Checks that a number is a share of something: not below 0, and below 1 or another bound."""
    expect(option, value, 0 <= value < most, f"at least 0 and below {most:g}")


def distinct(option: str, values: Collection[Any], known: Collection[Any] | None = None) -> None:
    """Checks that there are values, none of them twice, and all of them known."""
    given = " ".join(map(str, values))
    expect(option, given or "none", len(values) > 0, "at least one")
    expect(option, given, len(set(values)) == len(values), "named once each")
    if known is not None:
        for value in values:
            expect(option, value, value in known, f"of {', '.join(map(str, known))}")


def device(option: str, name: str) -> None:
    """Checks that a device is here.

    Raises:
        ValueError: If it is not.
    """
    import torch

    expect(option, name, not name.startswith("cuda") or torch.cuda.is_available(), "cpu where there is no CUDA device")


def check_each(option: str, values: Collection[float], check: Callable[..., None], *arguments: float) -> None:
    """Applies a check to every number of a list."""
    for value in values:
        check(option, value, *arguments)
