"""The table: its settings, its rows, its cells, and the report of them."""
