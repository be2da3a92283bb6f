"""Commands that need a link to a board, one file a command."""
