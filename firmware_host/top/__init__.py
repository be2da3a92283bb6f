"""Devices, live in a terminal: what they answer and learn, and whether they are well."""
