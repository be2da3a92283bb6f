"""One learned state of those of several boards, and whether it is better than each of them."""
