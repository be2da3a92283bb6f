"""Runs a recorded journal again with the board's own code: verify it, ask what if, go back to any state."""
