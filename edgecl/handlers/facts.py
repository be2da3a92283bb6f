"""The request for what the board is."""

from edgecl import facts as board_facts
from edgecl.board import Board
from edgecl.facts import Facts
from edgecl.messages import Nothing


def facts(board: Board, request: Nothing) -> Facts:
    """All that an ordinary user may read of it."""
    return board_facts.read(board.store)
