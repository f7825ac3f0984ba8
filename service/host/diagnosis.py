"""The checks of `mlxd doctor`. Each yields findings, some of which are problems."""

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
from typing import Any, NamedTuple, get_args

from protocol.messages import Configure, Ready
from protocol.stats import Device
from protocol.units import format_bytes
from protocol.wiring import AUTO, NO_METAL, choose_wiring, describe_wiring
from service.config.api_keys import keys_path
from service.config.model_settings import model_id, pull_command
from service.config.scalars import SettingsError
from service.config.settings import Settings, describe_settings
from service.config.sources import Configuration
from service.errors import excerpt
from service.host.device_probe import probe
from service.host.guarded_folders import explain_guarded, used_paths
from service.host.hub import is_offline, refuse_open_hub_for
from service.host.launchd import plist_path
from service.host.local_models import ModelFiles, inspect_model
from service.schema.health import HealthStatus
from service.security.exposure import find_exposure
from service.security.keyring import open_keyring
from service.security.origins import parse_hosts, parse_origins
from service.supervision.available_memory import read_available
from service.supervision.preloads import describe_preloads, find_preloads
from service.supervision.process import worker_environ
from service.transport.listener import bind
from service.transport.tls import make_tls

PACKAGES = ("mlxd", "mlx", "mlx-lm", "transformers", "starlette", "hypercorn", "msgspec")
HEALTH_TIMEOUT_S = 3.0
OTHERS_MAY_WRITE = 0o022


class Finding(NamedTuple):
    """One result of a check."""

    name: str
    text: str
    is_problem: bool = False


Findings = Iterator[Finding]


def check_versions() -> Findings:
    """The installed versions."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", platform.platform())
    for name in PACKAGES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "is not installed", is_problem=True)


def check_settings(configuration: Configuration) -> Findings:
    """The settings that are not defaults, with their sources. Of API keys only the names appear."""
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
        yield Finding("settings", "all defaults")
    for name, parse in (("allowed_hosts", parse_hosts), ("allowed_origins", parse_origins)):
        try:
            parse(getattr(settings, name), name)
        except SettingsError as error:
            yield Finding(name, str(error), is_problem=True)
    if settings.log_file:
        folder = Path(settings.log_file).expanduser().parent
        if not folder.is_dir():
            yield Finding("log_file", f"there is no folder {folder}", is_problem=True)


def check_access(settings: Settings) -> Findings:
    """API keys, TLS, and whether other machines can reach a service without keys."""
    try:
        keys = open_keyring(settings)
        path = keys_path(settings.keys_file)
    except SettingsError as error:
        yield Finding("keys", str(error), is_problem=True)
        return
    if keys.required and not len(keys):
        yield Finding("keys", f"{path} has none, so every request is refused", is_problem=True)
    else:
        yield Finding("keys", f"{len(keys)} configured" if keys.required else "not required")
    if path is not None and path.exists() and path.stat().st_mode & OTHERS_MAY_WRITE:
        yield Finding("keys_file", f"other users may write to {path}", is_problem=True)
    try:
        yield Finding("tls", "on" if make_tls(settings) else "off")
    except SettingsError as error:
        yield Finding("tls", str(error), is_problem=True)
    reason = find_exposure(settings, keys, address_of(settings.host))
    if reason is not None:
        yield Finding("host", reason, is_problem=True)


def check_port(settings: Settings) -> Findings:
    """Whether the port is free, or in use by another mlxd."""
    address = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
    except OSError as error:
        running = describe_running_service(settings)
        text = f"{address} {running}" if running else f"{address}: {error.strerror}"
        yield Finding("port", text, is_problem=running is None)
    else:
        yield Finding("port", f"{address} is free")


def check_device(
    settings: Settings, configure: Configure, environ: Mapping[str, str], largest_bytes: int
) -> Findings:
    """The device and its memory, and whether the largest model fits.

    The other models need not fit beside it, because idle models are evicted.
    """
    try:
        preloads = find_preloads(settings.blas, settings.allocator)
    except SettingsError as error:
        yield Finding("preloaded", str(error), is_problem=True)
        return
    result = asyncio.run(probe(configure, worker_environ(environ, preloads)))
    if not isinstance(result, Ready):
        yield Finding("device", result, is_problem=True)
        return
    device = result.device
    yield Finding("device", f"{device.name} ({device.backend})")
    if (preloaded := describe_preloads(device, preloads)) is not None:
        yield Finding("preloaded", preloaded)
    limit = result.memory.limit or device.memory_bytes
    yield Finding(
        "memory", f"{format_bytes(limit)}, the largest model needs {format_bytes(largest_bytes)}"
    )
    if largest_bytes > limit:
        yield Finding("memory", "the largest model does not fit", is_problem=True)
    if device.recommended_bytes or settings.wired_limit_bytes:
        yield Finding("wired", foresee_wiring(settings, device, largest_bytes))
    if (available := read_available()) is not None:
        yield Finding("available", format_bytes(available))


def foresee_wiring(settings: Settings, device: Device, weight_bytes: int) -> str:
    """What the worker would keep wired of a model with these weights, in words."""
    if settings.wired_limit_bytes == AUTO:
        macos = platform.mac_ver()[0]
        return describe_wiring(choose_wiring(weight_bytes, device.recommended_bytes, macos))
    if not settings.wired_limit_bytes:
        return "nothing (wired_limit_bytes = 0)"
    if not device.recommended_bytes:
        return f"nothing: {NO_METAL}"
    return f"up to {format_bytes(settings.wired_limit_bytes)} (wired_limit_bytes)"


def check_models(settings: Settings, files: Mapping[str, ModelFiles], *, offline: bool) -> Findings:
    """Whether the files of each model exist and are whole. `files` are by model id."""
    for model in settings.models:
        id = model_id(model)
        folder, weight_bytes, problems = files[id]
        if folder is None:
            reason = "HF_HUB_OFFLINE is set" if offline else "the first start downloads it"
            if model.trust_remote_code:
                reason = f"`{pull_command(model)}` does it"
            is_problem = offline or model.trust_remote_code
            yield Finding(id, f"is not downloaded; {reason}", is_problem=is_problem)
        elif not problems:
            yield Finding(id, f"{format_bytes(weight_bytes)} in {folder}")
        if model.trust_remote_code:
            yield Finding(id, "Python code in its folder runs with all rights (trust_remote_code)")
        for problem in problems:
            yield Finding(id, f"{problem} ({folder})", is_problem=True)


def check_hub(settings: Settings, environ: Mapping[str, str]) -> Findings:
    """Whether the hub would be sent a token unencrypted."""
    try:
        refuse_open_hub_for(settings.models, environ)
    except SettingsError as error:
        yield Finding("hub", str(error), is_problem=True)
    else:
        yield Finding("hub", "is not asked" if is_offline(environ) else "may be asked")


def check_agent(
    settings: Settings, config: str | None, environ: Mapping[str, str], home: Path
) -> Findings:
    """Whether launchd can run the service: a problem once it is to do so."""
    is_installed = plist_path(home).exists()
    yield Finding("agent", "is installed" if is_installed else "is not installed")
    for sentence in explain_guarded(used_paths(settings, config, environ), home):
        yield Finding("agent", sentence, is_problem=is_installed)


def inspect_models(settings: Settings) -> dict[str, ModelFiles]:
    """The files of each model, by id."""
    return {
        model_id(model): inspect_model(model.source, model.revision) for model in settings.models
    }


def address_of(host: str) -> str:
    """The first numeric address of a host; the host itself if it has none."""
    with contextlib.suppress(OSError, UnicodeError):
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    return host


def describe_running_service(settings: Settings) -> str | None:
    """The version and status of an mlxd that uses the port; None if there is none.

    Without a key, a service that requires one tells its status alone.
    """
    report = read_health(settings) or {}
    if report.get("status") not in get_args(HealthStatus):
        return None
    named = f"mlxd {report['version']}" if "version" in report else "mlxd"
    return f"is used by {excerpt(named, 100)}, {report['status']}"


class ModelStatesUnknown(Exception):
    """The states of the models are unknown; the text is the reason."""


def read_model_states(settings: Settings) -> dict[str, str]:
    """The state of each model of an mlxd that uses the port, by id.

    Raises:
        ModelStatesUnknown: no mlxd answers, or it tells its status alone.
    """
    address = f"{settings.host}:{settings.port}"
    report = read_health(settings) or {}
    if report.get("status") in get_args(HealthStatus) and "models" not in report:
        # No command sends a key: the connection does not prove who answers.
        raise ModelStatesUnknown(f"the service at {address} tells its models only with an API key")
    try:
        return {model["id"]: str(model["status"]) for model in report["models"]}
    except (LookupError, TypeError):
        raise ModelStatesUnknown(f"no service answers at {address}") from None


def read_health(settings: Settings) -> dict[str, Any] | None:
    """The response of `GET /health` on the port; None if it is not a JSON object."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    connection: http.client.HTTPConnection
    if settings.tls_cert:
        # The certificate is not verified, because the request contains no secret.
        unverified = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=HEALTH_TIMEOUT_S, context=unverified
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
