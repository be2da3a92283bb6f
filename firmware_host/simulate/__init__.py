"""Boards that are not there: their journals, made by the board's own loop on a real data set under drifts."""
