"""Writes one HTML file that shows what boards answered, met and learned; it needs nothing but a browser."""
