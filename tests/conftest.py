"""Hypothesis profiles: ``default`` for every run, ``deep`` by ``--hypothesis-profile deep``."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, settings

# Timing says nothing about correctness on a shared machine, and the first example compiles.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("default", max_examples=15, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)  # the networks here are tiny
