"""The paper's Table 1, remade: `python benchmarks/table1.py`. Not part of the installed package."""
