"""Something of each kind in a team, made over HTTP: a question by what is made up is about nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from cairn_common.ids import new_uid

TEAM = "main"
_TASK = "run: 'true'\nresources: {cpus: 1}\n"
_GRID = "envs: {a: '1'}\ncairn: {sweep: {parameters: {a: [1, 2]}}}\n"


def furnish(http: httpx.Client, token: str) -> dict[str, list[str]]:
    """Makes them; values for each parameter of the API's paths and for some of its queries and bodies."""

    def post(path: str, body: Mapping[str, object]) -> Any:
        answer = http.post(
            f"/api/v1{path}", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    team = f"/teams/{TEAM}"
    job = post(f"{team}/jobs", {"task": _TASK})["uid"]
    held = post(f"{team}/jobs", {"task": _TASK})["uid"]
    post(f"{team}/jobs/{held}:hold", {})
    sweep = post(f"{team}/sweeps", {"task": _TASK + _GRID})
    runs = [
        post(f"{team}/runs", {"run": {"experiment": "things", "params": {"a": number}}})["uid"]
        for number in range(2)
    ]
    digests = [_version(http, post, kind, runs[0]) for kind in ("MODEL", "DATASET", "CHECKPOINT")]
    invited = post(f"{team}/invitations", {"email": f"{new_uid()}@example.org", "role": "ROLE_MEMBER"})
    account = post(f"{team}/accounts", {"account_id": f"a{new_uid()}", "role": "ROLE_MEMBER"})
    hook = {"url": "http://127.0.0.1:9/", "events": ["job.finished"]}
    post(f"{team}/secrets/HF_TOKEN:set", {"value": "hf_of the team"})
    asked = post(f"{team}/artifacts/model/versions/1:promote", {"alias": f"tried-{new_uid()}"})
    return {
        "team": [TEAM],
        "job": [job, held, *(each["uid"] for each in sweep["jobs"])],
        "sweep": [sweep["uid"]],
        "run": [*runs, job],
        "artifact": ["model", "dataset", "checkpoint"],
        "version": ["1", "latest"],
        "digest": digests,
        "user": [account["name"].rpartition("/")[2]],
        "token": [post("/tokens", {"scope": "SCOPE_READ"})["token"]["uid"]],
        "invitation": [invited["invitation"]["uid"]],
        "variable": ["HF_TOKEN"],
        "webhook": [post(f"{team}/webhooks", {"webhook": hook})["webhook"]["uid"]],
        "share": [post(f"{team}/shares", {"runs": runs})["share"]["uid"]],
        "promotion": [asked.get("uid", "") or new_uid()],
        "budget": ["money"],
        "code": [post("/device-logins", {"client": "test"})["login"]["name"].rpartition("/")[2]],
    }


def _version(http: httpx.Client, post: Any, kind: str, run: str) -> str:
    """The digest of a version's only file."""
    data = f"{kind} {new_uid()}".encode()
    part = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
    for upload in post(f"/teams/{TEAM}/uploads", {"parts": [part]})["uploads"]:
        http.put(upload["url"], content=data).raise_for_status()
    entry = {"path": "f", **part, "parts": [part]}
    path = f"/teams/{TEAM}/artifacts/{kind.lower()}/versions"
    post(path, {"kind": f"ARTIFACT_KIND_{kind}", "run": run, "entries": [entry]})
    return str(part["digest"])


def as_configuration(things: Mapping[str, Sequence[str]], *, probability: float) -> str:
    """For schemathesis: these values in that share of its requests."""
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(list(values))}" for name, values in things.items()]
    places = {f"path.{name}": name for name in things}
    places |= {"query.run": "run", "body.run": "run", "body.runs[*]": "run", "body.digests[*]": "digest"}
    lines.append("[parameters]")
    lines += [
        f'"{place}" = {{ dictionary = "{name}", probability = {probability} }}'
        for place, name in places.items()
    ]
    return "\n".join(lines) + "\n"
