"""Units that both processes use, and sizes formatted for people."""

from __future__ import annotations

MS_PER_S = 1000.0
MIB = 1 << 20
GIB = 1 << 30


def format_bytes(size: int) -> str:
    """A size in bytes as text for people: 1.5 GiB, 11.3 MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
