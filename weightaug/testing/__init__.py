"""A symmetry-correctness suite: hypothesis strategies, and the laws that every transform obeys.

Hold a transform of your own to the contract in one line::

    check_transform(MyTransform(), random_element(Architecture.siren((2, 16, 16, 1)), (4,)))

and on a range of small networks and batches in another, ``check_everywhere(MyTransform())``; in pytest, the fixture
``weightaug_laws`` is that function, and ``pytest --pyargs weightaug`` holds the installed package to its own laws.

Function preservation is tested by evaluating the networks, never against a formula. Only the strategies
(``activations``, ``architectures``, ``elements``) need hypothesis, when they are first used
(``pip install 'weightaug[testing]'``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightaug.testing.asserts import assert_close, assert_equal, assert_same_function
from weightaug.testing.battery import check_everywhere
from weightaug.testing.certificates import Certificate, Movement, check_model
from weightaug.testing.laws import check_transform
from weightaug.testing.networks import random_element, sample_points

if TYPE_CHECKING:
    from weightaug.testing.strategies import activations, architectures, elements

__all__ = [
    "Certificate",
    "Movement",
    "activations",
    "architectures",
    "assert_close",
    "assert_equal",
    "assert_same_function",
    "check_everywhere",
    "check_model",
    "check_transform",
    "elements",
    "random_element",
    "sample_points",
]


def __getattr__(name: str) -> Any:
    if name in ("activations", "architectures", "elements"):
        from weightaug.testing import strategies

        return getattr(strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
