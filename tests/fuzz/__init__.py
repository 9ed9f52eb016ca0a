"""Mutated inputs for everything that reads; see test_readers.py."""
