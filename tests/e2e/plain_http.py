"""Requests to a service without TLS: they read no certificates, and wait until something hangs.

Reading the system's certificates takes 20 ms, many times what a request takes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import httpx

from tests.waiting import HANG_S


def get(url: str, **options: Any) -> httpx.Response:
    """A GET request."""
    return request("GET", url, **options)


def post(url: str, **options: Any) -> httpx.Response:
    """A POST request."""
    return request("POST", url, **options)


def request(method: str, url: str, **options: Any) -> httpx.Response:
    """A request of any method."""
    return httpx.request(method, url, timeout=HANG_S, verify=False, **options)


def stream(method: str, url: str, **options: Any) -> AbstractContextManager[httpx.Response]:
    """A request whose response is read as it comes."""
    return httpx.stream(method, url, timeout=HANG_S, verify=False, **options)


def client(url: str) -> httpx.Client:
    """A client of the service at `url`, which keeps its connections."""
    return httpx.Client(base_url=url, timeout=HANG_S, verify=False)


def async_client(url: str) -> httpx.AsyncClient:
    """An asynchronous client of the service at `url`, with as many connections as it needs."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=HANG_S, verify=False, limits=limits)
