"""The laws of the installed package, as tests: ``pytest --pyargs weightaug``, which needs pytest and nothing else."""
