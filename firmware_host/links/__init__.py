"""Ways to a board: each opens a stream of bytes with an agent at its end."""
