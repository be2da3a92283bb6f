"""The commands of the board side, one a file; `edgecl/cli.py` names them."""
