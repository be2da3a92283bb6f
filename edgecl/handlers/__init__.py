"""What the board does for each request."""
