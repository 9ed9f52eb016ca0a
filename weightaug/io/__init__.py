"""Data sets of networks on disk: safetensors shards and a JSON manifest in one folder.

- Nothing is pickled; a file from a stranger can be opened without running its code.
- A reader sees either the old data set or the new one: every file is written under a temporary name, flushed
  to the disk and renamed, the manifest last, and no shard that a manifest names is ever written over.
- There may be any number of readers. Writers wait for each other (a lock that ends with its process), and what
  a killed one has left is cleared by the next.
- Everything is checked: the manifest carries its own checksum and those of the shards.
- Shards are memory-mapped: the pages belong to the system, and worker processes share them.

The manifest holds what the tensors cannot tell: the architecture with its activations, omegas and output
offset, and the caller's ``metadata`` (how the INRs were fitted, coordinate order, class names, provenance).
"""

from weightaug.io.dataset import Folder, Stored, WeightSpaceDataset, load
from weightaug.io.writing import append, save

__all__ = ["Folder", "Stored", "WeightSpaceDataset", "append", "load", "save"]
