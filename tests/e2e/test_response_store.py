"""The setting response_store of a real service: a file of its own, used as memory is."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import plain_http
from tests.e2e.daemon import running


def test_a_file_is_for_one_service_and_its_user(llama_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "state" / "responses.db"
    flags = ["--response-store", str(path)]
    with running(llama_path, flags=flags) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with running(llama_path, flags=flags, wait=False) as second:
            assert second.wait() == 1
        [line] = [line for line in second.lines if "response_store" in line]
        assert line.startswith("mlxd: response_store:")
        assert "another service has it open" in line
        assert "Traceback" not in second.output
        metrics = plain_http.get(f"{daemon.url}/metrics").text
        assert "mlxd_response_store_bytes" in metrics
        assert "mlxd_response_store_evictions_total" in metrics
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_responses_in_a_file_are_used_as_those_in_memory(llama_path: Path, tmp_path: Path) -> None:
    flags = ["--response-store", str(tmp_path / "responses.db")]
    asked: dict[str, Any] = {"model": "default", "max_output_tokens": 4, "temperature": 0}
    with running(llama_path, flags=flags) as daemon, plain_http.client(daemon.url) as http:

        def create(text: str, **more: Any) -> dict[str, Any]:
            reply = http.post("/v1/responses", json={**asked, "input": text, **more})
            assert reply.status_code == httpx.codes.OK, reply.text
            made: dict[str, Any] = reply.json()
            return made

        one = create("One")
        two = create("Two", previous_response_id=one["id"])
        assert http.get(f"/v1/responses/{two['id']}").json() == two
        path = f"/v1/responses/{two['id']}/input_items"
        items = http.get(path, params={"order": "asc"}).json()["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"]
        reference = {"type": "item_reference", "id": one["output"][0]["id"]}
        assert http.delete(f"/v1/responses/{one['id']}").json()["deleted"]
        assert http.get(f"/v1/responses/{one['id']}").status_code == httpx.codes.NOT_FOUND
        # The second turn still has the items of the first.
        assert http.get(path, params={"order": "asc"}).json()["data"] == items
        user = {"role": "user", "content": "Three"}
        by_reference = {**asked, "input": [user, reference, user]}
        assert http.post("/v1/responses", json=by_reference).status_code == httpx.codes.OK
        endless = {"background": True, "max_output_tokens": 100_000, "ignore_eos": True}
        ran = create("Run", **endless)["id"]
        assert http.post(f"/v1/responses/{ran}/cancel").json()["status"] == "cancelled"
        assert http.get(f"/v1/responses/{ran}").json()["status"] == "cancelled"
        conversation = http.post("/v1/conversations", json={"items": [user]}).json()["id"]
        create("Four", conversation=conversation)
        kept = http.get(f"/v1/conversations/{conversation}/items").json()["data"]
        assert [item["role"] for item in kept] == ["assistant", "user", "user"]
