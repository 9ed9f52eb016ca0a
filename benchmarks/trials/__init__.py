"""Long trials of the library, each a command of its own: what was tried, and what came of it."""
