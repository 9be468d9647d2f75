"""Files of MLflow's clients: put, listed, fetched and deleted through the gateway, kept as blobs are."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest

from cairn_common.ids import new_uid
from tests.harness.gateway import bearer
from tests.harness.mlflow import Rest
from tests.harness.tracker import STRANGER, VIEWER, Client

TREE = "/mlflow/api/2.0/mlflow-artifacts/artifacts"


async def put(rest: Rest, path: str, data: bytes) -> int:
    answer = await rest.http.put(f"{TREE}/{path}", content=data, headers=bearer(rest.token))
    return answer.status_code


async def listed(rest: Rest, path: str) -> list[tuple[str, bool, int | None]]:
    answer = await rest.http.get(TREE, params={"path": path}, headers=bearer(rest.token))
    assert answer.status_code == 200
    return [(item["path"], item["is_dir"], item.get("file_size")) for item in answer.json().get("files", ())]


async def test_a_file_comes_back_as_it_was_put(rest: Rest) -> None:
    root = f"0/{new_uid()}/artifacts"
    files = {
        "a.txt": b"text", "d/empty": b"", "d/e/large.bin": os.urandom(17 * 2**20), "d/ünï cödé.json": b"{}",
    }  # fmt: skip
    for path, data in files.items():
        assert await put(rest, f"{root}/{path}", data) == 200
    for path, data in files.items():
        answer = await rest.http.get(f"{TREE}/{root}/{path}", headers=bearer(rest.token))
        assert (answer.status_code, answer.content == data) == (200, True)
        assert answer.headers["content-length"] == str(len(data))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    told = answer.headers["content-disposition"]
    assert "filename*=UTF-8''%C3%BCn%C3%AF%20c%C3%B6d%C3%A9.json" in told
    assert await listed(rest, root) == [("a.txt", False, 4), ("d", True, None)]
    assert await listed(rest, f"{root}/d") == [
        ("e", True, None), ("empty", False, 0), ("ünï cödé.json", False, 2),
    ]  # fmt: skip
    assert await listed(rest, f"{root}/a.txt") == []
    assert await listed(rest, f"{root}/none") == []


async def test_a_file_that_is_written_again_or_deleted_lets_go_of_its_bytes(rest: Rest) -> None:
    path = f"0/{new_uid()}/artifacts/f"
    first, second = os.urandom(100), os.urandom(100)
    digests = [hashlib.sha256(data).hexdigest() for data in (first, second)]

    async def held() -> list[bool]:
        async with Client(rest.tracker) as client:
            return [
                await client.postgres.fetchval("SELECT EXISTS (SELECT FROM holdings WHERE digest = $1)", one)
                for one in digests
            ]

    assert await put(rest, path, first) == 200
    assert await held() == [True, False]
    assert await put(rest, path, second) == 200
    assert await held() == [False, True]
    assert (await rest.http.get(f"{TREE}/{path}", headers=bearer(rest.token))).content == second
    for _ in range(2):
        assert (await rest.http.delete(f"{TREE}/{path}", headers=bearer(rest.token))).status_code == 200
    assert await held() == [False, False]
    gone = await rest.http.get(f"{TREE}/{path}", headers=bearer(rest.token))
    assert (gone.status_code, gone.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    async with Client(rest.tracker) as client:
        idle = await client.postgres.fetchval(
            "SELECT count(*) FROM idle_blobs WHERE digest = ANY($1)", digests
        )
    assert idle == 2


async def test_a_runs_files_are_listed_from_its_root(rest: Rest) -> None:
    run_id = await rest.run()
    run = (await rest.get("runs/get", run_id=run_id))["run"]
    root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert await put(rest, f"{root}/model/MLmodel", b"x") == 200
    told = await rest.get("artifacts/list", run_id=run_id, path="model")
    assert told["root_uri"] == run["info"]["artifact_uri"]
    assert told["files"] == [{"path": "model/MLmodel", "is_dir": False, "file_size": 1}]
    await rest.http.delete(f"{TREE}/{root}/model", headers=bearer(rest.token))
    assert "files" not in await rest.get("artifacts/list", run_id=run_id)


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e/x",
        "a/%2e%2e/b",
        "a/%252e%252e/b",
        "a%5cb",
        "a%23b",
        "a%00b",
        "C%3A/x",
        "%2Fetc/passwd",
        "x" * 1100,
    ],
)
async def test_no_path_leads_out_of_the_tree(rest: Rest, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await rest.http.request(method, f"{TREE}/{path}", headers=bearer(rest.token))
        assert (answer.status_code, answer.json()["message"]) == (400, "Invalid path"), method


async def test_a_file_is_no_folder_and_versions_files_are_not_written(rest: Rest) -> None:
    root = f"0/{new_uid()}/artifacts"
    assert await put(rest, f"{root}/a/b", b"x") == 200
    assert await put(rest, f"{root}/a", b"x") == 400
    assert await put(rest, f"{root}/a/b/c", b"x") == 400
    assert await put(rest, "models/clf/1/model.pkl", b"x") == 400


async def test_other_teams_have_other_trees(rest: Rest) -> None:
    path = f"0/{new_uid()}/artifacts/f"
    viewer, stranger = replace(rest, token=VIEWER), replace(rest, token=STRANGER)
    assert await put(viewer, path, b"x") == 403
    assert await put(rest, path, b"ours") == 200
    for who, status in ((viewer, 200), (stranger, 404)):
        answer = await rest.http.get(f"{TREE}/{path}", headers=bearer(who.token))
        assert answer.status_code == status
    assert await put(stranger, path, b"theirs") == 200
    assert (await rest.http.get(f"{TREE}/{path}", headers=bearer(rest.token))).content == b"ours"
