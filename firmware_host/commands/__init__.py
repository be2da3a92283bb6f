"""The commands of the host, one file a subject."""
