"""Images, the networks fitted to them, and where those are kept."""
