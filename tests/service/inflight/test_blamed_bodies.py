"""Bodies that killed workers are known for ten minutes, to their owner."""

from __future__ import annotations

from service.inflight.blamed_bodies import MAX_PER_OWNER, REMEMBERED_S, BlamedBodies


def test_a_body_is_known_to_its_owner_for_ten_minutes() -> None:
    now = 0.0
    bodies = BlamedBodies(lambda: now)
    bodies.add("a", b"1")
    assert bodies.known("a", b"1")
    assert not bodies.known("a", b"2")
    assert not bodies.known("b", b"1")
    now = REMEMBERED_S / 2
    bodies.add("a", b"2")
    now = REMEMBERED_S
    assert not bodies.known("a", b"1")
    assert bodies.known("a", b"2")
    now = 2 * REMEMBERED_S
    assert not bodies.known("a", b"2")
    assert len(bodies) == 0


def test_the_oldest_of_an_owner_are_forgotten_beyond_the_limit() -> None:
    bodies = BlamedBodies(lambda: 0.0)
    bodies.add("b", b"0")
    for number in range(MAX_PER_OWNER + 1):
        bodies.add("a", str(number).encode())
        bodies.add("a", b"again")
    assert len(bodies) == MAX_PER_OWNER + 1
    assert bodies.known("b", b"0")
    assert bodies.known("a", b"again")
    assert not bodies.known("a", b"0")
