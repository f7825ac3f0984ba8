"""Configurations of services with embedding models and rerankers."""

from __future__ import annotations

from pathlib import Path

CHAT, EMBEDDER, RERANKER = "chat", "embedder", "reranker"


def table(id: str, path: Path, **settings: str) -> str:
    """The `[[models]]` table of a model; the settings are TOML."""
    lines = [f'id = "{id}"', f'source = "{path}"', *(f"{k} = {v}" for k, v in settings.items())]
    return "\n".join(["[[models]]", *lines, ""])


def configure(folder: Path, *tables: str) -> list[str]:
    """The flags of a service with these models."""
    path = folder / "mlxd.toml"
    path.write_text("\n".join(tables))
    return ["--config", str(path)]
