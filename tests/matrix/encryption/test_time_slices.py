"""A piece of work ends by number or by time, and moves on always."""

from __future__ import annotations

import pytest

from bot.matrix.encryption.time_slices import PIECE, TimeSlices


def work(each: float, most: int) -> int:
    """Return how many things that take `each` seconds are done in one piece."""
    worked = [0.0]
    piece = TimeSlices(busy=lambda: worked[0], most=most).piece()
    count = 0
    while piece.goes_on():
        worked[0] += each
        count += 1
    return count


@pytest.mark.parametrize(
    ("each", "most", "done"),
    [(0.0, 7, 7), (PIECE / 4, 50, 4), (PIECE, 50, 1), (10 * PIECE, 50, 1), (0.0, 1, 1)],
)
def test_a_piece_ends_by_number_or_by_time(each: float, most: int, done: int) -> None:
    assert work(each, most) == done
