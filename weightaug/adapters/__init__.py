"""Adapters: plain functions in pairs between a :class:`~weightaug.WeightSpaceElement` and other layouts.

``from_x`` reads, ``to_x`` writes, and together they lose nothing. Tensors are views of the caller's where the
layout allows it. Everything that does not fit is refused, with the layer, the expected and the got.

========================  ==================================================================================
``state_dicts``           one ``torch.nn`` state dict, a list of them, or one with stacked tensors
``modules``               ``torch.nn`` modules
``lora``                  state dicts of low-rank adapters (peft's names); to_state_dicts writes them
``dws``                   tuples ``(weights, biases)`` of ``(*batch, in, out, 1)`` (DWSNets, neural graphs)
``nfn``                   tuples ``(weights, biases)`` of ``(*batch, 1, out, in, *kernel)`` (NFN)
``graph``                 dense node and edge features, ``(*batch, N, 1)`` and ``(*batch, N, N, 1)``
========================  ==================================================================================
"""

from weightaug.adapters.dws import from_dws, to_dws
from weightaug.adapters.gains import absorb_gains
from weightaug.adapters.graph import from_graph, to_graph
from weightaug.adapters.lora import from_lora
from weightaug.adapters.modules import from_modules, infer_architecture, to_modules
from weightaug.adapters.nfn import from_nfn, to_nfn
from weightaug.adapters.state_dicts import from_state_dicts, infer_names, to_state_dicts
from weightaug.adapters.statistics import recompute_statistics

__all__ = [
    "absorb_gains",
    "from_dws",
    "from_graph",
    "from_lora",
    "from_modules",
    "from_nfn",
    "from_state_dicts",
    "infer_architecture",
    "infer_names",
    "recompute_statistics",
    "to_dws",
    "to_graph",
    "to_modules",
    "to_nfn",
    "to_state_dicts",
]
