"""Which files of a checkpoint a rank sends, and where its own state is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

import cairn
from cairn import _run
from cairn._stage import Shard, own_files, stage
from cairn._transfer import sources


def test_each_rank_sends_what_it_wrote_of_a_folder_that_torch_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    folder.mkdir()
    for name in ("__0_0.distcp", "__0_1.distcp", "__1_0.distcp", "__10_0.distcp", ".metadata"):
        (folder / name).write_text(name)
    sent = {rank: [source.path for source in own_files(sources(folder), rank)] for rank in (0, 1, 2, 10)}
    assert sent == {
        0: [".metadata", "__0_0.distcp", "__0_1.distcp"], 1: ["__1_0.distcp"], 2: [], 10: ["__10_0.distcp"],
    }  # fmt: skip
    staged = stage(folder, tmp_path / "staged", step=3, metrics={}, shard=Shard(2, 11))
    assert staged.sources() == [], "a rank may have nothing of it"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("a")
    assert len(own_files(sources(tmp_path / "other"), 5)) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_writes_what_is_told_apart(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    checkpoint.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    names = {source.path for source in own_files(sources(tmp_path / "dcp"), 0)}
    assert ".metadata" in names
    assert any(name.startswith("__0_") for name in names)
    assert own_files(sources(tmp_path / "dcp"), 1) == []


def test_a_state_of_each_rank_comes_back_to_its_rank(job: _run.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    cairn.save_checkpoint({"w": torch.ones(2)}, step=4, sharded=True)
    found = cairn.latest_checkpoint()
    assert found is not None
    assert (found.step, found.path.name) == (4, "state-00001.pt")
    assert found.load()["w"].tolist() == [1.0, 1.0]
