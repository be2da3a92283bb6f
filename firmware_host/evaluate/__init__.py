"""Figures of what boards answered and learned: did it help, where, for how long, and what to label next."""
