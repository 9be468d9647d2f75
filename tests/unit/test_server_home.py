"""The data folder: whose it is, who may look, who holds it; and what is kept in it."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from cairn._code import list_files
from cairn_common.auth import hash_token
from cairn_server import credentials, home, login, logs, ports
from cairn_server.backends import nats
from cairn_server.backends.program import SetupError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    made = home.prepare(tmp_path / "data")
    assert mode(made.root) == mode(made.logs) == mode(made.config) == 0o700


def test_a_folder_inside_a_project_goes_into_no_archive_of_its_code(tmp_path: Path) -> None:
    made = home.prepare(tmp_path / "data")
    home.write_private(made.secrets, "{}")
    (tmp_path / "train.py").touch()
    assert list_files(tmp_path) == ["train.py"]


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    home.prepare(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(SetupError, match="symbolic link"):
        home.prepare(tmp_path / "link")


def test_an_open_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    with pytest.raises(SetupError, match="chmod 700"):
        home.prepare(tmp_path / "data")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "thesis.tex").touch()
    with pytest.raises(SetupError, match="holds other things"):
        home.prepare(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    os.chown(tmp_path / "data", 12345, 12345)
    with pytest.raises(SetupError, match="belongs to user 12345"):
        home.prepare(tmp_path / "data")


def test_the_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    made = home.prepare(tmp_path / "data")
    made.state.write_text(json.dumps({"pid": 4711, "url": "http://127.0.0.1:7700"}))
    with home.locked(made):
        assert home.is_locked(made)
        with pytest.raises(SetupError, match=r"pid 4711, http://127\.0\.0\.1:7700"), home.locked(made):
            pass
    assert not home.is_locked(made)


def test_secrets_are_made_once_and_for_us_alone(tmp_path: Path) -> None:
    made = home.prepare(tmp_path / "data")
    first, second = credentials.load(made), credentials.load(made)
    assert first == second
    assert mode(made.secrets) == 0o600
    digests = json.loads(first.bootstrap())
    assert digests["admin"] == hash_token(first.admin_token)
    assert first.admin_token not in first.bootstrap() + repr(first)


def test_lost_secrets_beside_a_database_are_not_made_anew(tmp_path: Path) -> None:
    made = home.prepare(tmp_path / "data")
    (made.root / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(SetupError, match="put it back from your backup"):
        credentials.load(made)


def test_ports_are_kept_while_they_are_free(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = ports.assign(file, ["nats", "s3"], http=None)
    assert ports.assign(file, ["nats", "s3"], http=None) == first
    with socket.create_server(("127.0.0.1", first["nats"])):
        moved = ports.assign(file, ["nats", "s3"], http=None)
    assert moved["s3"] == first["s3"]
    assert moved["nats"] != first["nats"]
    assert mode(file) == 0o600


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"port {number} is taken"):
            ports.assign(tmp_path / "ports.json", [ports.HTTP], http=number)


def test_the_login_of_another_platform_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "cairn" / "config.json"
    assert login.write(file, url="http://one", token="a") is None
    assert mode(file) == 0o600
    hint = login.write(file, url="http://two", token="b")
    assert hint is not None
    assert "cairn login http://two" in hint
    assert json.loads(file.read_text()) == {"url": "http://one", "token": "a", "team": "main"}


def test_the_bus_lets_each_service_publish_its_own_facts_only(tmp_path: Path) -> None:
    keys = nats.NatsKeys(nats.new_seeds())
    text = nats.render(tmp_path, port=4222) + nats.accounts(keys)
    assert 'listen: "127.0.0.1:4222"' in text
    assert "sync_interval: always" in text
    line = next(line for line in text.splitlines() if keys.public("tracker") in line)
    assert '"cairn.v1.tracker.>"' in line
    assert "cairn.v1.scheduler" not in line
    assert not any(seed in text for seed in keys.seeds.values())


def test_a_long_log_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    with logs.open_for(tmp_path, "x") as writer:
        writer.write(b"old\n" * 10)
        logs.rotate(logs.path(tmp_path, "x"), most=20)
        writer.write(b"new\n")
    assert logs.path(tmp_path, "x").read_bytes() == b"new\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"old\n" * 10
