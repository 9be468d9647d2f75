"""Where `cairn run` takes secrets from, and what it says where there are none."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cairn import _env
from cairn._cli import repository, secrets
from cairn._cli.errors import CliError
from cairn._cli.run import run
from cairn._cli.secret import secret
from cairn._cli.tasks import Wishes, from_command, from_file


def test_options_go_before_the_file_and_that_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "from here")
    monkeypatch.setenv("OTHER", "from here")
    file = tmp_path / "t.env"
    file.write_text("# comment\n\nexport A='in quotes'\nB=b=c\nMINE=file\n")
    (tmp_path / "b").write_text("option\n")
    assert secrets.given([f"B=@{tmp_path}/b", "OTHER"], file) == {
        "A": "in quotes", "B": "option", "MINE": "file", "OTHER": "from here",
    }  # fmt: skip
    (tmp_path / "t.yaml").write_text("run: x\nsecrets: {MINE: null, INLINE: value, OTHER: null}\n")
    task = from_file(tmp_path / "t.yaml", Wishes(secrets={"OTHER": "option", "NEW": "option"}))
    assert task.secrets == {"MINE": "from here", "OTHER": "option", "NEW": "option"}
    assert yaml.safe_load(task.text)["secrets"] == {
        "MINE": None, "INLINE": "value", "OTHER": None, "NEW": None,
    }  # fmt: skip
    assert "from here" not in repr(task)


def test_a_command_can_have_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = from_command(["x"], Wishes(secrets={"A": "value of a"}))
    assert (yaml.safe_load(task.text)["secrets"], task.secrets) == ({"A": None}, {"A": "value of a"})


@pytest.mark.parametrize("declared", ["{GONE: null, HERE: null}", "[GONE, HERE]"])
def test_what_has_no_value_here_is_left_to_the_platform(
    declared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GONE", raising=False)
    monkeypatch.setenv("HERE", "from here")
    (tmp_path / "t.yaml").write_text(f"run: x\nsecrets: {declared}\n")
    wishes = Wishes(secrets=secrets.given(["GONE"], None))
    assert from_file(tmp_path / "t.yaml", wishes).secrets == {"HERE": "from here"}
    command = from_command(["x"], wishes)
    assert (yaml.safe_load(command.text)["secrets"], command.secrets) == ({"GONE": None}, {})


def test_a_value_is_not_taken_from_the_command_line(tmp_path: Path) -> None:
    for words in (["HF_TOKEN=hf_12345678"], ["HF_TOKEN", "--from-file", str(tmp_path / "gone")]):
        done = CliRunner().invoke(secret, ["set", *words])
        assert isinstance(done.exception, CliError)
        assert "hf_12345678" not in str(done.exception) + done.exception.told.hint
        assert ("history" in str(done.exception)) is ("=" in words[0])
    place = {"CAIRN_URL": "http://127.0.0.1:9", "CAIRN_TOKEN": "cairn_x"}
    done = CliRunner().invoke(run, ["x", "--secret", "HF_TOKEN=hf_12345678"], env=place)
    assert isinstance(done.exception, CliError)
    assert "history" in str(done.exception)
    assert "hf_12345678" not in str(done.exception) + done.exception.told.hint


def test_a_value_comes_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    assert secrets.given(["A=-"], None) == {"A": "from stdin"}


def test_no_error_says_a_value(tmp_path: Path) -> None:
    (tmp_path / "bad.env").write_text("hf_12345678\n")
    for pairs, file in (
        (["=hf_12345678"], None),
        (["A=hf_12345678"], None),
        (["A=@gone"], None),
        ([], tmp_path / "bad.env"),
        ([], tmp_path / "gone"),
    ):
        with pytest.raises(CliError) as caught:
            secrets.given(pairs, file)
        assert "hf_12345678" not in str(caught.value)


def test_the_recorded_command_is_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", "--token", "hf_12345678"])
    environ = {"CAIRN_SECRETS": "A,B,C", "A": "hf_12345678", "B": "py"}
    assert _env.describe_command(environ) == "python train.py --token ********"


def test_infra_moves_a_file_that_names_other_places(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "run: x\nresources: {cloud: aws, region: r, cpus: 2, "
        "any_of: [{infra: aws, accelerators: L4}, {infra: gcp, accelerators: L4}, {infra: k8s}]}\n"
    )
    moved = yaml.safe_load(from_file(tmp_path / "t.yaml", Wishes(infra="local")).text)["resources"]
    assert moved == {"cpus": 2, "any_of": [{"accelerators": "L4"}], "infra": "local"}


def test_a_repository_is_fetched_at_its_ref(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=origin, check=True)

    git("init", "-q", "-b", "main")
    (origin / "a.txt").write_text("first")
    git("add", "."), git("commit", "-qm", "first"), git("tag", "v1")
    (origin / "a.txt").write_text("second")
    git("commit", "-qam", "second")
    (tmp_path / "t.yaml").write_text(f"run: x\nworkdir: {{url: 'file://{origin}', ref: v1}}\n")

    def fetch(url: str, ref: str) -> Path:
        folder = tmp_path / f"tree{ref}"
        folder.mkdir()
        return repository.fetch(url, ref, folder)

    task = from_file(tmp_path / "t.yaml", Wishes(), fetch=fetch)
    assert task.workdir is not None
    assert (task.workdir / "a.txt").read_text() == "first"
    assert (fetch(f"file://{origin}", "") / "a.txt").read_text() == "second"
    with pytest.raises(CliError, match="cannot be fetched"):
        fetch(f"file://{origin}", "gone")
    with pytest.raises(CliError, match="begins with a `-`"):
        fetch("--upload-pack=touch /tmp/x", "x")
