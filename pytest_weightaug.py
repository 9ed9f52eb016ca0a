"""pytest plugin: the fixture ``weightaug_laws``.

It lies beside the package, not in it, because pytest imports every installed plugin at its start: importing
weightaug would import torch into every test run of the environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from weightaug import Architecture


@pytest.fixture(scope="session")
def weightaug_laws() -> Callable[..., list[Architecture]]:
    """Holds a transform to the laws of weightaug: ``weightaug_laws(MyTransform())``.

    It is :func:`weightaug.testing.check_everywhere`, with the same arguments.
    """
    from weightaug.testing import check_everywhere

    return check_everywhere
