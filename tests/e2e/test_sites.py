"""Requests from web pages of other sites are refused."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon
from tests.e2e.faulty import faulty
from tests.e2e.wire import COMPLETIONS, connect, read_answer, read_end

ASKED = {"model": "fake", "prompt": "x", "max_tokens": 5}
EVIL = "https://evil.example"
FRIEND = "https://app.example"


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    """A service as it is without any setting about sites."""
    with faulty() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def open_to_a_friend() -> Iterator[Daemon]:
    """A service that a site and a name are allowed for."""
    flags = ["--allowed-origins", f"{FRIEND}, null", "--allowed-hosts", "mlx.example"]
    with faulty(*flags) as daemon:
        yield daemon


def get(daemon: Daemon, path: str = "/v1/models", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plain_http.get(f"{daemon.url}{path}", headers=named)


def post(daemon: Daemon, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plain_http.post(f"{daemon.url}{COMPLETIONS}", json=ASKED, headers=named)


def preflight(daemon: Daemon, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return plain_http.request("OPTIONS", f"{daemon.url}{COMPLETIONS}", headers=headers)


def assert_refused(response: httpx.Response, code: str) -> None:
    assert response.status_code == 403
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["message"].isprintable()
    assert_no_cors(response)


def assert_no_cors(response: httpx.Response) -> None:
    assert not any(name.startswith("access-control") for name in response.headers)


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:8000",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "evil.localhost",
        "localhost@evil.com",
        "localhost:8000@evil.com",
        "localhost evil.com",
        "192.168.1.7",
        "0.0.0.0",
        "[::]",
        "[::1].evil.com",
        "2130706433",
        "\x7f",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/", "/nowhere"])
def test_a_name_that_is_not_ours_is_refused(own: Daemon, host: str, path: str) -> None:
    assert_refused(get(own, path, host=host), "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.9.9.9:80", "[::1]:8000"]
)
def test_our_own_names_are_served_whatever_port_they_carry(own: Daemon, host: str) -> None:
    assert get(own, host=host).status_code == 200


@pytest.mark.parametrize(
    ("version", "status"), [(b"1.1", 400), (b"1.0", 403)], ids=["HTTP/1.1", "HTTP/1.0"]
)
def test_a_request_without_a_host_is_refused(own: Daemon, version: bytes, status: int) -> None:
    with connect(own) as client:
        client.sendall(b"GET /v1/models HTTP/%s\r\n\r\n" % version)
        assert read_end(client).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_http_1_0_without_a_host_gets_the_status_alone(own: Daemon, method: bytes) -> None:
    with connect(own) as client:
        client.sendall(b"%s /health HTTP/1.0\r\n\r\n" % method)
        head, _, body = read_end(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == (b'{"status":"healthy"}' if method == b"GET" else b"")


@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_an_absolute_target_is_judged_by_its_own_authority(own: Daemon, path: str) -> None:
    def get_as(target: str, host: str, *headers: str) -> bytes:
        with connect(own) as client:
            lines = [f"GET {target}{path} HTTP/1.1", f"Host: {host}", *headers]
            client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            return read_end(client)

    assert get_as("http://localhost", "evil.com").startswith(b"HTTP/1.1 200 ")
    assert get_as("http://127.0.0.1:1", "localhost").startswith(b"HTTP/1.1 200 ")
    assert get_as("http://evil.com", "localhost").startswith(b"HTTP/1.1 403 ")
    assert get_as("http://localhost.evil.com", "localhost").startswith(b"HTTP/1.1 403 ")
    page = "Origin: http://evil.com"
    assert get_as("http://localhost", "evil.com", page).startswith(b"HTTP/1.1 403 ")
    assert get_as("http://localhost", "x", "Origin: http://localhost").startswith(b"HTTP/1.1 200 ")


def test_without_keys_only_a_local_caller_sees_more_than_the_status(own: Daemon) -> None:
    assert "worker" in get(own, "/health").json()
    for header in ("forwarded", "x_forwarded_for", "x_real_ip", "via"):
        forwarded = get(own, "/health", **{header: "for=192.0.2.1"})
        assert forwarded.json() == {"status": "healthy"}


def test_a_name_can_be_allowed_and_its_neighbours_are_not(open_to_a_friend: Daemon) -> None:
    assert get(open_to_a_friend, host="mlx.example:443").status_code == 200
    assert get(open_to_a_friend, host="localhost").status_code == 200
    assert_refused(get(open_to_a_friend, host="x.mlx.example"), "host_not_allowed")


def test_an_address_of_the_network_is_served_where_the_network_is() -> None:
    flags = ["--host", "0.0.0.0", "--without-keys", "anyone-on-the-network"]
    with faulty(*flags, wait=False) as daemon:
        daemon.wait_until("status", be="healthy")
        assert get(daemon, host="192.168.1.7:8000").status_code == 200
        assert_refused(get(daemon, host="evil.com"), "host_not_allowed")


# ---------------------------------------------------------------- origins


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "http://localhost:1",
        "http://127.0.0.1",
        "file://",
        "http://localhost.evil.com",
    ],
)
def test_a_foreign_page_is_refused_whatever_it_asks_for(own: Daemon, origin: str) -> None:
    assert_refused(post(own, origin=origin), "origin_not_allowed")
    assert_refused(get(own, origin=origin), "origin_not_allowed")
    assert_refused(preflight(own, origin), "origin_not_allowed")


def test_a_foreign_page_is_refused_before_its_body_has_come(own: Daemon) -> None:
    with connect(own) as client:
        lines = [
            f"POST {COMPLETIONS} HTTP/1.1",
            "Host: localhost",
            f"Origin: {EVIL}",
            "Content-Type: application/json",
            "Content-Length: 1000000",
        ]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        assert read_answer(client)[0] == 403


def test_what_comes_from_another_site_without_an_origin_is_refused(own: Daemon) -> None:
    assert_refused(get(own, sec_fetch_site="cross-site"), "origin_not_allowed")
    assert_refused(post(own, sec_fetch_site="cross-site"), "origin_not_allowed")
    framed = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert_refused(get(own, sec_fetch_site="cross-site", **framed), "origin_not_allowed")


def test_a_link_may_be_followed_and_a_form_may_not_be_sent(own: Daemon) -> None:
    visit = {
        "sec_fetch_site": "cross-site",
        "sec_fetch_mode": "navigate",
        "sec_fetch_dest": "document",
    }
    assert get(own, **visit).status_code == 200
    assert_refused(post(own, **visit), "origin_not_allowed")


def test_our_own_page_is_served(own: Daemon) -> None:
    for site in ("same-origin", "none"):
        response = post(own, origin=own.url, sec_fetch_site=site)
        assert response.status_code == 200
        assert_no_cors(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize(
    "path", [COMPLETIONS, "/v1/chat/completions", "/chat/completions", "/admin/models/fake/unload"]
)
def test_what_a_form_can_send_is_refused_though_it_hides_where_it_comes_from(
    own: Daemon, kind: str, path: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    refused = plain_http.post(f"{own.url}{path}", content=b'{"model": "fake"}', headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")


# ---------------------------------------------------------------- allowed sites


def test_an_allowed_page_is_served_and_told_so_and_may_borrow_no_credentials(
    open_to_a_friend: Daemon,
) -> None:
    asked = preflight(open_to_a_friend, FRIEND)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in asked.headers["access-control-allow-methods"]
    for response in (asked, post(open_to_a_friend, origin=FRIEND, sec_fetch_site="cross-site")):
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]


def test_an_allowed_page_can_read_why_it_was_refused(open_to_a_friend: Daemon) -> None:
    url = f"{open_to_a_friend.url}{COMPLETIONS}"
    refused = plain_http.post(url, json={}, headers={"origin": FRIEND})
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == FRIEND
    for name in ("x-request-id", "request-id", "x-mlxd-ignored", "x-mlxd-left-out"):
        assert name in refused.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", [EVIL, f"{FRIEND}.evil.example", f"{FRIEND}:444", "http://app.example"]
)
def test_other_pages_are_refused_beside_it(open_to_a_friend: Daemon, origin: str) -> None:
    assert_refused(preflight(open_to_a_friend, origin), "origin_not_allowed")
    assert_refused(post(open_to_a_friend, origin=origin), "origin_not_allowed")


def test_any_page_may_be_allowed_and_still_none_borrows_credentials() -> None:
    with faulty(
        "--allowed-origins", "*", environ={"MLXD_API_KEYS": "a-key-for-the-page"}
    ) as daemon:
        assert preflight(daemon, EVIL).headers["access-control-allow-origin"] == "*"
        refused = post(daemon, origin=EVIL, cookie="a=b")
        assert refused.status_code == 401
        served = post(daemon, origin=EVIL, authorization="Bearer a-key-for-the-page", cookie="a=b")
        assert served.status_code == 200
        for response in (refused, served):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


def test_an_allowed_page_administers_nothing_without_a_key(open_to_a_friend: Daemon) -> None:
    refused = get(open_to_a_friend, "/admin/nothing", origin=FRIEND)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")
    own = get(open_to_a_friend, "/admin/nothing", origin=open_to_a_friend.url)
    assert own.status_code == 404


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--allowed-hosts", "a.example:80"),
        ("--allowed-hosts", "https://a.example"),
        ("--allowed-hosts", "ok.example, a b"),
        ("--allowed-origins", "a.example"),
        ("--allowed-origins", "https://a.example/"),
        ("--allowed-origins", "https://ok.example, *.example"),
    ],
)
def test_a_site_that_is_none_ends_the_start(flag: str, value: str) -> None:
    with faulty(flag, value, wait=False) as daemon:
        assert daemon.wait() != 0
        assert flag.strip("-").replace("-", "_") in daemon.output


# ---------------------------------------------------------------- requests without a body


@pytest.mark.parametrize(
    "page",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": EVIL, "content-type": "text/plain"},
        {"origin": EVIL, "sec-fetch-site": "cross-site", "transfer-encoding": "chunked"},
    ],
    ids=lambda page: " ".join(page.values()),
)
def test_no_route_takes_a_request_without_a_body_from_another_site(
    own: Daemon, page: dict[str, str]
) -> None:
    with plain_http.client(own.url) as http:
        for method, path in changing_routes(http):
            assert http.request(method, path, headers=page).status_code == 403, (method, path)


def test_no_route_asks_a_request_without_a_body_for_its_type(own: Daemon) -> None:
    with plain_http.client(own.url) as http:
        routes = changing_routes(http)
        assert ("POST", "/v1/responses/x/cancel") in routes
        for method, path in routes:
            for headers in ({}, {"content-length": "0"}, {"origin": own.url}):
                status = http.request(method, path, headers=headers).status_code
                assert status != 415, (method, path)
                assert status < 500, (method, path)
            if method == "POST":
                typed = {"content-type": "text/plain"}
                assert http.post(path, content=b"{}", headers=typed).status_code == 415, path
                assert http.post(path, content=b"{}").status_code == 415, path


def changing_routes(http: httpx.Client) -> list[tuple[str, str]]:
    """The methods and paths that change something, with an id that nothing has."""
    paths = http.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path.replace("{id}", "x").replace("{item}", "x").replace("{model}", "x"))
        for path, methods in paths.items()
        for method in methods
        if method in ("post", "delete")
    ]
