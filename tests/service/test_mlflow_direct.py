"""Files of MLflow's clients that go to the store and come from it past all services, by signed URLs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from cairn.tracker.v1 import tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.gateway import bearer
from tests.harness.mlflow import Rest
from tests.harness.tracker import STRANGER, VIEWER, Client

FILES = "/mlflow/api/2.0/mlflow-artifacts"
PART = 5 * 2**20


@dataclass
class Sender:
    """What MLflow's newest client does with a file, step by step."""

    rest: Rest
    folder: str
    # As the client has it on its own disk; its last part is the file's name.
    local: str = "/home/ada/weights.bin"

    async def ask(self, what: str, **given: Any) -> tuple[int, Any]:
        url = f"{FILES}/mpu/{what}/{self.folder}"
        answer = await self.rest.http.post(
            url, json={"path": self.local, **given}, headers=bearer(self.rest.token)
        )
        return answer.status_code, answer.json()

    async def begin(self, parts: int) -> tuple[str, list[dict[str, Any]]]:
        status, told = await self.ask("create", num_parts=parts)
        assert status == 200, told
        return told["upload_id"], told["credentials"]

    async def send(self, parts: Sequence[bytes]) -> tuple[str, list[dict[str, Any]]]:
        """All parts at once, on a way of their own; the id and what the client then tells of them."""
        upload, credentials = await self.begin(len(parts))
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            answers = await asyncio.gather(
                *(
                    http.put(each["url"], content=part, headers=each["headers"])
                    for each, part in zip(credentials, parts, strict=True)
                )
            )
        assert {answer.status_code for answer in answers} == {200}
        return upload, [
            {"part_number": each["part_number"], "etag": answer.headers["etag"], "url": each["url"]}
            for each, answer in zip(credentials, answers, strict=True)
        ]


async def presigned(rest: Rest, path: str) -> tuple[int, Any]:
    answer = await rest.http.get(f"{FILES}/presigned/{path}", headers=bearer(rest.token))
    return answer.status_code, answer.json()


async def listed(rest: Rest, folder: str) -> list[tuple[str, int]]:
    answer = await rest.http.get(f"{FILES}/artifacts", params={"path": folder}, headers=bearer(rest.token))
    return [(item["path"], item.get("file_size", -1)) for item in answer.json().get("files", ())]


async def left_in_store(rest: Rest, upload: str) -> tuple[bool, bool]:
    """Whether there is a row, and an object, of an upload."""
    async with Client(rest.tracker) as client:
        row = await client.postgres.fetchval("SELECT done FROM mlflow_uploads WHERE uid = $1", upload)
    folder = rest.tracker.program.env["CAIRN_S3_DATA_DIR"]
    found = [name for _, _, names in os.walk(folder) for name in names if upload in name]
    return row is not None, bool(found)


async def test_bytes_pass_by_and_both_see_the_same_file(rest: Rest) -> None:
    run_id = await rest.run()
    folder = (await rest.get("runs/get", run_id=run_id))["run"]["info"]["artifact_uri"].split(":/")[1]
    parts = [os.urandom(PART), os.urandom(PART), os.urandom(11)]
    data = b"".join(parts)
    sender = Sender(rest, f"{folder}/model", local="C:\\ada\\weights.bin")
    upload, sent = await sender.send(parts)
    assert await listed(rest, f"{folder}/model") == []
    for _ in range(2):
        # The client may not have heard the first answer.
        assert await sender.ask("complete", upload_id=upload, parts=sent) == (200, {})
    assert await listed(rest, f"{folder}/model") == [("weights.bin", len(data))]
    status, told = await presigned(rest, f"{folder}/model/weights.bin")
    assert (status, told["file_size"], told["headers"]) == (200, len(data), {})
    assert urlsplit(told["url"]).netloc != rest.http.base_url.netloc.decode()
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(told["url"])).content == data
        piece = await http.get(told["url"], headers={"Range": f"bytes={PART - 5}-{PART + 4}"})
        assert piece.content == data[PART - 5 : PART + 5]
    # Through the gateway it is the same, and as a version, too.
    answer = await rest.http.get(f"{FILES}/artifacts/{folder}/model/weights.bin", headers=bearer(rest.token))
    assert answer.content == data
    name = f"net-{new_uid()}"
    await rest.post("registered-models/create", name=name)
    await rest.post("model-versions/create", name=name, source=f"runs:/{run_id}/model", run_id=run_id)
    async with Client(rest.tracker) as client:
        wanted = tracker_pb2.GetVersionRequest(name=f"teams/main/artifacts/{name}/versions/1")
        (entry,) = (await client.artifacts.GetVersion(wanted)).entries
    assert (entry.size, entry.digest) == (len(data), hashlib.sha256(data).hexdigest())
    # Nothing is kept twice.
    assert await left_in_store(rest, upload) == (True, False)


async def test_a_file_may_be_empty_or_written_again(rest: Rest) -> None:
    sender = Sender(rest, f"0/{new_uid()}/artifacts")
    for data in (b"", b"first", b"second", b"second"):
        upload, sent = await sender.send([data])
        assert await sender.ask("complete", upload_id=upload, parts=sent) == (200, {})
        status, told = await presigned(rest, f"{sender.folder}/weights.bin")
        assert (status, told["file_size"], bool(told["url"])) == (200, len(data), bool(data))
        answer = await rest.http.get(
            f"{FILES}/artifacts/{sender.folder}/weights.bin", headers=bearer(rest.token)
        )
        assert answer.content == data


async def test_what_is_given_up_is_collected(rest: Rest) -> None:
    sender = Sender(rest, f"0/{new_uid()}/artifacts")
    upload, sent = await sender.send([b"some bytes"])
    for _ in range(2):
        assert await sender.ask("abort", upload_id=upload) == (200, {})
    assert await left_in_store(rest, upload) == (False, False)
    status, told = await sender.ask("complete", upload_id=upload, parts=sent)
    assert (status, told["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.put(sent[0]["url"], content=b"more")).status_code == 404
    assert await listed(rest, sender.folder) == []


async def test_parts_that_are_not_there_make_no_file(rest: Rest) -> None:
    sender = Sender(rest, f"0/{new_uid()}/artifacts")
    upload, sent = await sender.send([b"some bytes"])
    for parts, status in (
        ([], 400),
        ([{**sent[0], "part_number": 2}], 400),
        ([*sent, sent[0]], 400),
        ([{"part_number": 1}], 400),
        (sent, 200),
    ):
        answer = await sender.ask("complete", upload_id=upload, parts=parts)
        assert answer[0] == status, answer
    upload, sent = await sender.send([b"others"])
    wrong = [{**sent[0], "etag": '"0123456789abcdef0123456789abcdef"'}]
    assert (await sender.ask("complete", upload_id=upload, parts=wrong))[0] == 400
    assert await listed(rest, sender.folder) == [("weights.bin", 10)]
    for number in (0, -1, 4_097, "x"):
        assert (await sender.ask("create", num_parts=number))[0] == 400
    assert (await sender.ask("create", num_parts=1, path=""))[0] == 400


async def test_urls_are_good_for_a_quarter_of_an_hour_and_one_key(rest: Rest) -> None:
    sender = Sender(rest, f"0/{new_uid()}/artifacts")
    upload, sent = await sender.send([b"bytes"])
    assert await sender.ask("complete", upload_id=upload, parts=sent) == (200, {})
    _, told = await presigned(rest, f"{sender.folder}/weights.bin")
    for url in (sent[0]["url"], told["url"]):
        assert int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 900
        assert "/t/main/" in urlsplit(url).path
        other = url.replace("/t/main/", "/t/other/")
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(other)).status_code == 403


@pytest.mark.parametrize("folder", ["%2e%2e/x", "a/%252e%252e/b", "a%5cb", "models/clf/1"])
async def test_no_path_leads_out_of_the_tree(rest: Rest, folder: str) -> None:
    status, _ = await Sender(rest, folder).ask("create", num_parts=1)
    assert status == 400
    if "models" not in folder:
        assert (await presigned(rest, folder))[0] == 400


async def test_the_name_is_the_last_part_of_the_clients_path_alone(rest: Rest) -> None:
    folder = f"0/{new_uid()}/artifacts"
    for local in ("../../evil", "/etc/passwd", "a\\..\\evil"):
        sender = Sender(rest, folder, local=local)
        upload, sent = await sender.send([b"x"])
        assert (await sender.ask("complete", upload_id=upload, parts=sent))[0] == 200
    assert [name for name, _ in await listed(rest, folder)] == ["evil", "passwd"]
    for local in ("..", "a/..", "."):
        assert (await Sender(rest, folder, local=local).ask("create", num_parts=1))[0] == 400


async def test_others_neither_send_nor_fetch(rest: Rest) -> None:
    run_id, other = await rest.run(), await rest.run()
    roots = {
        uid: (await rest.get("runs/get", run_id=uid))["run"]["info"]["artifact_uri"].split(":/")[1]
        for uid in (run_id, other)
    }
    sender = Sender(rest, roots[run_id])
    upload, sent = await sender.send([b"ours"])
    for token, status in ((VIEWER, 403), (STRANGER, 404), (rest.as_run(other).token, 404)):
        them = Sender(replace(rest, token=token), roots[run_id])
        for what in ("complete", "abort"):
            answer = await them.ask(what, upload_id=upload, parts=sent)
            # To abort what is not there is no error; it changes nothing.
            assert answer[0] == status or (what, token) == ("abort", STRANGER), (what, token, answer)
    own = Sender(rest.as_run(run_id), roots[run_id])
    assert (await own.ask("complete", upload_id=upload, parts=sent))[0] == 200
    assert (await presigned(own.rest, f"{roots[run_id]}/weights.bin"))[0] == 200
    for who in (replace(rest, token=STRANGER), rest.as_run(other)):
        assert (await presigned(who, f"{roots[run_id]}/weights.bin"))[0] == 404
    assert (await presigned(replace(rest, token=VIEWER), f"{roots[run_id]}/weights.bin"))[0] == 200


async def test_a_file_in_several_pieces_has_no_size_there_so_that_it_is_fetched_here(rest: Rest) -> None:
    path = f"0/{new_uid()}/artifacts/large"
    data = os.urandom(17 * 2**20)
    answer = await rest.http.put(f"{FILES}/artifacts/{path}", content=data, headers=bearer(rest.token))
    assert answer.status_code == 200
    assert await presigned(rest, path) == (200, {"url": "", "headers": {}})


async def test_the_server_says_so(rest: Rest) -> None:
    told = (await rest.http.get("/mlflow/api/3.0/mlflow/server-info")).json()
    names = ("multipart_uploads_enabled", "multipart_downloads_enabled", "artifacts_presigned_only")
    assert [told[name] for name in names] == [True, True, True]
