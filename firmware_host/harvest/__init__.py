"""Samples that boards have kept, with the labels that came to them, as a data set that `edgecl build` takes."""
