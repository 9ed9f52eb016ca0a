"""Hypothesis profiles: ``default`` for every run, ``deep`` by ``--hypothesis-profile deep``."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Timing says nothing about correctness on a shared machine, and the first example compiles.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("default", max_examples=15, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes is skipped, unless markers are chosen."""
    if not config.option.markexpr:
        skip = pytest.mark.skip(reason="takes minutes: opt in by -m slow")
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(skip)


torch.set_num_threads(1)  # the networks here are tiny
