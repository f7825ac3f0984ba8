"""What `mlxd doctor` looks at: each check tells what it found, and whether that is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import platform
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from protocol.messages import Configure, Ready
from protocol.units import format_bytes
from service.config.api_keys import keys_path
from service.config.model_settings import model_id
from service.config.scalars import SettingsError
from service.config.settings import Settings, describe_settings
from service.config.sources import Configuration
from service.errors import excerpt
from service.host.device_probe import probe
from service.host.local_models import ModelFiles, look_at
from service.http.listener import bind
from service.http.tls import make_tls
from service.security.exposure import find_exposure
from service.security.keyring import open_keyring
from service.security.origins import parse_hosts, parse_origins
from service.supervision.available_memory import read_available
from service.supervision.preloads import describe_preloads, find_preloads
from service.supervision.process import worker_environ

PACKAGES = ("mlxd", "mlx", "mlx-lm", "transformers", "starlette", "hypercorn", "msgspec")
HEALTH_TIMEOUT_S = 3.0
OTHERS_MAY_WRITE = 0o022


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    told: str
    wrong: bool = False


Findings = Iterator[Finding]


def check_versions() -> Findings:
    """What is installed."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", platform.platform())
    for name in PACKAGES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "is not installed", wrong=True)


def check_settings(configuration: Configuration) -> Findings:
    """Every setting that somebody set, with who did. Keys are told by their names alone."""
    settings, sources = configuration
    for name in describe_settings():
        if name in sources:
            yield Finding(name, f"{excerpt(str(getattr(settings, name)), 200)}  [{sources[name]}]")
    if "api_keys" in sources:
        names = ", ".join(key.name for key in settings.api_keys)
        yield Finding("api_keys", f"{names}  [{sources['api_keys']}]")
    if "models" in sources:
        yield Finding("models", f"{len(settings.models)}  [{sources['models']}]")
    if not sources:
        yield Finding("settings", "all as they are by default")
    for name, parse in (("allowed_hosts", parse_hosts), ("allowed_origins", parse_origins)):
        try:
            parse(getattr(settings, name), name)
        except SettingsError as error:
            yield Finding(name, str(error), wrong=True)
    if settings.log_file:
        folder = Path(settings.log_file).expanduser().parent
        if not folder.is_dir():
            yield Finding("log_file", f"there is no folder {folder}", wrong=True)


def check_access(settings: Settings) -> Findings:
    """Keys, TLS, and who could reach the service."""
    try:
        keys = open_keyring(settings)
        path = keys_path(settings.keys_file)
    except SettingsError as error:
        yield Finding("keys", str(error), wrong=True)
        return
    if keys.required and not len(keys):
        yield Finding("keys", f"{path} holds none, so every request is refused", wrong=True)
    else:
        yield Finding("keys", f"{len(keys)} are known" if keys.required else "none are needed")
    if path is not None and path.exists() and path.stat().st_mode & OTHERS_MAY_WRITE:
        yield Finding("keys_file", f"others may write to {path}", wrong=True)
    try:
        yield Finding("tls", "on" if make_tls(settings) else "off")
    except SettingsError as error:
        yield Finding("tls", str(error), wrong=True)
    reason = find_exposure(settings, keys, address_of(settings.host))
    if reason is not None:
        yield Finding("host", reason, wrong=True)


def check_port(settings: Settings) -> Findings:
    """Whether the port is free, or a service of ours is there."""
    place = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
    except OSError as error:
        running = ask_health(settings)
        told = f"{place} {running}" if running else f"{place}: {error.strerror}"
        yield Finding("port", told, wrong=running is None)
    else:
        yield Finding("port", f"{place} is free")


def check_device(
    settings: Settings, configure: Configure, environ: Mapping[str, str], largest_bytes: int
) -> Findings:
    """What MLX computes on, and whether the largest model fits; the others may take turns."""
    preloads = find_preloads(settings.blas, settings.allocator)
    answer = asyncio.run(probe(configure, worker_environ(environ, preloads)))
    if not isinstance(answer, Ready):
        yield Finding("device", answer, wrong=True)
        return
    device = answer.device
    yield Finding("device", f"{device.name} ({device.backend})")
    if (preloaded := describe_preloads(device, preloads)) is not None:
        yield Finding("preloaded", preloaded)
    limit = settings.memory_limit_bytes or device.memory_bytes
    yield Finding(
        "memory", f"{format_bytes(limit)}, the largest model needs {format_bytes(largest_bytes)}"
    )
    if largest_bytes > limit:
        yield Finding("memory", "the largest model does not fit", wrong=True)
    if (available := read_available()) is not None:
        yield Finding("available", format_bytes(available))


def check_models(settings: Settings, found: Mapping[str, ModelFiles], *, offline: bool) -> Findings:
    """Whether each model's files are there and whole."""
    for model in settings.models:
        id = model_id(model)
        folder, weight_bytes, wrong = found[id]
        if folder is None:
            told = "is not downloaded; the first start does it"
            yield Finding(
                id,
                "is not downloaded, and HF_HUB_OFFLINE is set" if offline else told,
                wrong=offline,
            )
        elif not wrong:
            yield Finding(id, f"{format_bytes(weight_bytes)} in {folder}")
        for reason in wrong:
            yield Finding(id, f"{reason} ({folder})", wrong=True)


def look_at_models(settings: Settings) -> dict[str, ModelFiles]:
    """What there is of each model, by id."""
    return {model_id(model): look_at(model.source) for model in settings.models}


def address_of(host: str) -> str:
    """The first numeric address of a host; as it stands where it has none."""
    with contextlib.suppress(OSError):
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    return host


def ask_health(settings: Settings) -> str | None:
    """What a service of ours on that port says of itself; None where there is none."""
    report = read_health(settings)
    if report is None:
        return None
    try:
        return f"serves mlxd {report['version']}, {report['status']}"
    except LookupError:
        return None


def ask_models(settings: Settings) -> dict[str, str] | None:
    """The state of each model, by id, as a service on that port tells it; None where none is."""
    report = read_health(settings)
    if report is None:
        return None
    try:
        return {model["id"]: str(model["status"]) for model in report["models"]}
    except (LookupError, TypeError):
        return None


def read_health(settings: Settings) -> dict[str, Any] | None:
    """The health of whatever listens on that port; None where nothing answers so."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    connection: http.client.HTTPConnection
    if settings.tls_cert:
        # Whose certificate it is does not matter here: nothing secret is sent.
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=HEALTH_TIMEOUT_S, context=trusting
        )
    else:
        connection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        report = json.loads(connection.getresponse().read())
        return report if isinstance(report, dict) else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
