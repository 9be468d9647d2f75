"""Task files and commands become tasks; the group and its plugins; the configuration file."""

from __future__ import annotations

import json
import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from cairn._cli import main as cli_main
from cairn._cli.errors import CliError
from cairn._cli.tasks import Wishes, from_command, from_file, name_of, parse_envs
from cairn._config import Config, ConfigError, load_config, save_config


def test_a_command_stays_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["python", "train.py", "--lr", "3e-4", "--name", "a b", "$HOME"]
    task = from_command(command, Wishes(cpus="2", gpus="1", experiment="e", envs={"A": "1"}))
    assert yaml.safe_load(task.text) == {
        "name": "train",
        "workdir": ".",
        "resources": {"cpus": "2", "accelerators": "GPU:1"},
        "envs": {"A": "1"},
        "cairn": {"experiment": "e"},
        "run": "python train.py --lr 3e-4 --name 'a b' '$HOME'",
    }
    assert (task.workdir, task.sweep, task.name) == (tmp_path, False, "train")
    assert yaml.safe_load(from_command(["a | b > c"], Wishes()).text)["run"] == "a | b > c"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "src/train_it.py"], "train-it"),
        (["python -u x.py && echo"], "x"),
        (["python", "-m", "pkg.fit", "--x"], "fit"),
        (["./run.sh"], "run"),
        (["nvidia-smi"], "nvidia-smi"),
        (["--"], "job"),
    ],
)
def test_a_command_has_a_name(command: list[str], name: str) -> None:
    assert name_of(command) == name


TASK = "# mine\nname: t\nworkdir: code\nenvs: {lr: 0.1}\nrun: python train.py\n"


def test_a_task_file_goes_as_it_is_and_its_workdir_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "t.yaml").write_text(TASK)
    task = from_file(tmp_path / "t.yaml", Wishes())
    assert (task.text, task.workdir) == (TASK, tmp_path / "code")
    wishes = Wishes(envs={"lr": "3e-4", "n": "1"}, priority=0)
    changed = yaml.safe_load(from_file(tmp_path / "t.yaml", wishes).text)
    assert changed["envs"] == {"lr": "3e-4", "n": "1"}
    assert changed["cairn"] == {"priority": 0}
    (tmp_path / "code").rmdir()
    with pytest.raises(CliError, match="is not a folder"):
        from_file(tmp_path / "t.yaml", Wishes())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run: [1", ":1:8: "),
        ("a: b: c", ":1:5: "),
        ("- a", "is no task"),
        ("", "is no task"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(CliError, match=told) as refused:
        from_file(tmp_path / "t.yaml", Wishes())
    assert refused.value.told.code == 2


def test_variables_are_given_or_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "m=1")
    assert parse_envs(["A=1=2", "B=", "MINE"]) == {"A": "1=2", "B": "", "MINE": "m=1"}
    with pytest.raises(CliError, match="NOSUCH"):
        parse_envs(["NOSUCH"])


def test_a_broken_plugin_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint(name="x", value="no_such_module:commands", group=cli_main.PLUGINS)
    monkeypatch.setattr(cli_main, "entry_points", lambda group: [broken])
    monkeypatch.setattr(cli_main.Commands, "_found", None)
    assert cli_main.invoke(["--help"]) == 0
    said = capsys.readouterr()
    assert "compare" in said.out
    assert said.err.strip().splitlines() == [
        "cairn: the commands of no_such_module:commands are left out: No module named 'no_such_module'"
    ]


def test_completion_scripts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.invoke(["completion", "bash"]) == 0
    assert "_CAIRN_COMPLETE" in capsys.readouterr().out


def test_the_configuration_is_private_and_the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "config.json"
    env = {"CAIRN_CONFIG": str(path)}
    assert load_config(env) == Config(url="", token="", team="main")
    save_config(Config(url="http://a", token="secret", team="t"), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["config.json"]
    assert load_config(env) == Config(url="http://a", token="secret", team="t")
    assert load_config({**env, "CAIRN_TEAM": "other", "CAIRN_TOKEN": "mine"}).token == "mine"
    # Another server is never sent the token of this one.
    assert load_config({**env, "CAIRN_URL": "http://b"}).token == ""
    assert load_config({**env, "CAIRN_URL": "http://a/"}).token == "secret"
    assert "secret" not in repr(load_config(env))
    path.write_text(json.dumps(["no object"]))
    with pytest.raises(ConfigError, match=r"config\.json cannot be used"):
        load_config(env)


def test_an_environment_is_laid_over_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "code" / "req").mkdir(parents=True)
    (tmp_path / "code" / "req" / "all.txt").write_text("-r base.txt\n")
    (tmp_path / "code" / "req" / "base.txt").write_text("six\n")
    monkeypatch.chdir(tmp_path / "code" / "req")
    command = from_command(["python", "a.py"], Wishes(workdir="..", requirements="all.txt"))
    assert yaml.safe_load(command.text)["cairn"] == {"env": {"requirements": "req/all.txt"}}
    (tmp_path / "t.yaml").write_text("run: x\nworkdir: code\ncairn: {env: {python: '3.11', lock: uv.lock}}\n")
    task = from_file(tmp_path / "t.yaml", Wishes(requirements="all.txt"))
    wanted = {"python": "3.11", "requirements": "req/all.txt"}
    assert yaml.safe_load(task.text)["cairn"] == {"env": wanted}


@pytest.mark.parametrize(
    ("env", "workdir", "told"),
    [
        ("{requirements: gone.txt}", "code", r"cairn\.env\.requirements: there is no file gone\.txt"),
        ("{requirements: outer.txt}", "code", r"no file inner\.txt \(included by outer\.txt\)"),
        ("{requirements: hidden.txt}", "code", r"hidden\.txt is in .*, but does not go along"),
        ("{requirements: r.txt}", None, r"r\.txt is a file of the `workdir`, and the task has none"),
        ("{lock: uv.lock}", "code", r"cairn\.env\.lock: there is no file pyproject\.toml"),
        ("{conda: e.yml}", "code", r"cairn\.env\.conda: there is no file e\.yml"),
    ],
)
def test_a_file_that_does_not_go_along_is_named_before_anything_is_sent(
    tmp_path: Path, env: str, workdir: str | None, told: str
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for name, text in (("outer.txt", "-r inner.txt"), ("hidden.txt", "six"), (".gitignore", "hidden.txt\n"),
                       ("r.txt", "six"), ("uv.lock", "")):  # fmt: skip
        (code / name).write_text(text)
    where = f"workdir: {workdir}\n" if workdir else ""
    (tmp_path / "t.yaml").write_text(f"run: x\n{where}cairn: {{env: {env}}}\n")
    with pytest.raises(CliError, match=told) as refused:
        from_file(tmp_path / "t.yaml", Wishes())
    assert refused.value.told.code == 2


def test_requirements_outside_of_the_working_directory_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "r.txt").touch()
    monkeypatch.chdir(tmp_path / "code")
    with pytest.raises(CliError, match="is not in the working directory"):
        from_command(["x"], Wishes(requirements="../r.txt"))
