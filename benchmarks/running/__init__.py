"""Running jobs, and what the commands have in common."""
