"""Continual learning on the board: run a bundle, adapt it within a memory budget, write down all it does."""
