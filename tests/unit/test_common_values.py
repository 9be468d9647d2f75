"""Ids, names, page tokens, subjects, settings, tokens and logs: what needs no server."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cairn_common import ids, paging, subjects
from cairn_common.auth import Principal, Role, Scope, hash_token, new_token, require
from cairn_common.errors import InvalidArgument, NotFound, PermissionDenied, Reason
from cairn_common.log import configure_logging
from cairn_common.settings import ServiceSettings, SettingsError, required, visible

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
positions = st.dictionaries(texts, texts | st.integers(-(2**63), 2**63 - 1), max_size=4)


def test_made_ids_are_unique_and_never_go_backwards() -> None:
    made = [ids.new_uid() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert all(ids.is_uid(uid) for uid in made)
    for other in (
        "",
        made[0].upper(),
        made[0][1:],
        made[0] + "0",
        "8" + made[0][1:],
        made[0][:-1] + "u",
        made[0] + "\n",
    ):
        assert not ids.is_uid(other)


@pytest.mark.parametrize("good", ["a", "main", "a-1", "a" * 63])
def test_a_chosen_id_passes_as_it_is(good: str) -> None:
    assert ids.check_id(good, "team_id") == good


@pytest.mark.parametrize("bad", ["", "A", "1a", "a-", "-a", "a" * 64, "a.b", "a\n", "ä", "a/b", "*"])
def test_anything_else_is_refused_with_its_field(bad: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ids.check_id(bad, "team_id")
    assert caught.value.reason == Reason.ID_INVALID
    assert caught.value.metadata["field"] == "team_id"


def test_a_name_is_built_and_taken_apart() -> None:
    name = ids.format_name("teams/{team}/jobs/{job}", team="main", job="01j")
    assert name == "teams/main/jobs/01j"
    assert ids.parse_name("teams/{team}/jobs/{job}", name) == {"team": "main", "job": "01j"}
    assert ids.parse_name("teams/{team}", "teams/-") == {"team": "-"}


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "teams/main",
        "teams/main/jobs/",
        "teams/a/b/jobs/c",
        "teams/main/jobs/x\n",
        "/teams/main/jobs/x",
        "teams/main/jobs/é",
    ],
)
def test_a_name_of_another_form_is_refused(bad: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ids.parse_name("teams/{team}/jobs/{job}", bad)
    assert caught.value.reason == Reason.NAME_INVALID
    with pytest.raises(InvalidArgument):
        ids.format_name("teams/{team}", team="a/b")


@given(position=positions, scope=st.text(max_size=40))
def test_a_page_token_gives_its_position_back(position: dict[str, str | int], scope: str) -> None:
    assert paging.decode_token(paging.encode_token(position, scope=scope), scope=scope, read=dict) == position


@given(position=positions, data=st.data())
def test_a_page_token_that_was_touched_is_refused(
    position: dict[str, str | int], data: st.DataObject
) -> None:
    token = paging.encode_token(position, scope="jobs/main")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    touched = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    for other, scope in ((touched, "jobs/main"), (token, "jobs/vision"), (token[:-4], "jobs/main")):
        with pytest.raises(InvalidArgument) as caught:
            paging.decode_token(other, scope=scope, read=dict)
        assert caught.value.reason == Reason.PAGE_TOKEN_INVALID


@given(junk=st.text(max_size=200))
def test_junk_is_never_a_page_token(junk: str) -> None:
    with pytest.raises(InvalidArgument):
        paging.decode_token(junk, scope="jobs/main", read=dict)


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"uid": "x"},
        {"time": "x", "uid": "y"},
        {"time": "2026-01-01", "uid": "y"},
        {"time": 2**63, "uid": "y"},
        {"time": "2026-01-01T00:00:00+00:00", "uid": "\0"},
    ],
)
def test_a_page_token_that_somebody_made_up_is_refused(position: dict[str, str | int]) -> None:
    token = paging.encode_token(position, scope="jobs/main")
    with pytest.raises(InvalidArgument) as caught:
        paging.decode_token(token, scope="jobs/main", read=paging.time_and_uid)
    assert caught.value.reason == Reason.PAGE_TOKEN_INVALID


def test_a_page_size_has_a_default_and_a_limit() -> None:
    assert [paging.page_size(asked) for asked in (0, 1, 1000, 5000)] == [100, 1, 1000, 1000]
    with pytest.raises(InvalidArgument):
        paging.page_size(-1)


def test_a_subject_is_built_and_taken_apart() -> None:
    text = subjects.subject("job", "run", "points_logged", "main", "01j")
    assert text == "cairn.v1.job.run.points-logged.main.01j"
    parts = subjects.parse(text)
    assert (parts.publisher, parts.event, parts.team, parts.uid) == ("job", "points-logged", "main", "01j")
    assert str(parts) == text


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "a b", "", "\0", "A", "é", "x" * 64, "a\n"])
def test_a_subject_takes_no_wildcard_nor_anything_odd(bad: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        subjects.subject("job", "run", "points-logged", "main", bad)
    with pytest.raises(ValueError, match="subject"):
        subjects.parse(f"cairn.v1.job.run.points-logged.main.{bad}")


def test_a_strangers_team_looks_as_if_it_did_not_exist() -> None:
    ada = Principal("users/ada", Scope.ADMIN, {"main": Role.MEMBER})
    require(ada, "main", Role.MEMBER)
    with pytest.raises(PermissionDenied) as low:
        require(ada, "main", Role.ADMIN)
    assert low.value.reason == Reason.ROLE_TOO_LOW
    with pytest.raises(NotFound) as foreign:
        require(ada, "vision", Role.VIEWER)
    assert foreign.value.reason == Reason.TEAM_NOT_FOUND
    run = Principal("runs/r", Scope.RUN, {"main": Role.OWNER}, run_uid="r")
    assert run.may("main", Role.MEMBER)
    assert not run.may("main", Role.ADMIN)
    assert not run.may("vision", Role.VIEWER)


def test_tokens_are_long_random_and_hashed() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("cairn_") and len(token) == 49 for token in tokens)
    # FIPS 180: what is stored stays readable for ever.
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_settings_name_what_is_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in visible():
        monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=r"^CAIRN_SERVICE_TOKEN not set$"):
        ServiceSettings.load()
    monkeypatch.setenv("CAIRN_SERVICE_TOKEN", "cairn_secret")
    monkeypatch.setenv("CAIRN_S3_DATA_DIR", "/data")
    monkeypatch.setenv("CAIRN_GRPC_BIND", "")
    settings = ServiceSettings.load()
    assert settings.s3_data_dir == Path("/data")
    assert settings.grpc_bind == "127.0.0.1:0"
    assert "cairn_secret" not in repr(settings)
    required(settings, "service_token", "s3_data_dir")
    with pytest.raises(SettingsError, match=r"^CAIRN_POSTGRES_URL is not set$"):
        required(settings, "postgres_url")


def test_secrets_never_reach_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        configure_logging("tracker", "INFO")
        token, service, seed = new_token(), new_token("cairn-service"), "SUA" + "B2" * 28
        log = structlog.get_logger()
        log.info("door.opened", token=token, CAIRN_NATS_SEED="SUABC", job="01j", note=f"with {token} inside")
        log.debug("not.shown")
        log.info(
            "door.told", why=f"{service} {seed} http://s3/k?X-Amz-Signature=5ec4e7&x=1 nats://5ec4e7@bus"
        )
        logging.getLogger("some.library").warning("at postgresql://tracker:hunter2@127.0.0.1/cairn")
        try:
            raise RuntimeError(f"Bearer {token}")
        except RuntimeError:
            log.exception("door.broken")
    finally:
        structlog.reset_defaults()
        root.handlers[:], _ = before
        root.setLevel(before[1])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [line["event"] for line in lines if line["event"].startswith("door.")]
    assert told == ["door.opened", "door.told", "door.broken"]
    assert lines[0]["job"] == "01j"
    assert lines[0]["service"] == "tracker"
    text = json.dumps(lines)
    assert "RuntimeError" in text
    for secret in (token, service, seed, "SUABC", "hunter2", "5ec4e7"):
        assert secret not in text
