"""JSON of others, whose every mistake is a ValueError."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parsed"]


def parsed(text: str, maker: str) -> Any:
    """What a text says.

    Raises:
        ValueError: If it is no JSON, or nested beyond what Python reads.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected the JSON of {maker}, got {text[:40]!r}: {error}") from error
