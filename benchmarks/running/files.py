"""Files that are whole or not there, and errors that name the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, data: Any) -> None:
    """Writes data as JSON; see :func:`write_text`."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that is either whole or not there.

    Raises:
        OSError: If it cannot be written; one that names no file, such as that of a full disk, is made to name it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process's number keeps workers apart that make the same file at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, *keys: str, remedy: str = "delete it, and it is made again") -> dict[str, Any]:
    """Reads a JSON file of a result.

    Args:
        path: The file.
        keys: What has to be in it.
        remedy: What to do about a damaged one.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged; it names the file and the remedy.
    """
    try:
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict):
            raise TypeError(f"expected an object, got {type(data).__name__}")
        for key in keys:
            data[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!r:.200}); {remedy}") from error
    return data
