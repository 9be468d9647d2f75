"""Models, datasets and evaluations as they are saved: files, what is said of them, what they come from."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import cairn
from cairn import _run
from cairn._blobs import TransferError
from cairn._keep import Artifact, store
from cairn._references import _Redirects


def kept(run: _run.Run, made: Artifact | None) -> tuple[dict[str, Any], Path]:
    """What is said of a version in the local store, and where its files are."""
    assert made is not None
    folder = store(run, made.artifact) / f"v{made.version}"
    return json.loads((folder / "version.json").read_text()), folder / "content"


def test_a_model_is_a_file_a_folder_or_a_state(job: _run.Run, tmp_path: Path) -> None:
    (tmp_path / "weights.onnx").write_bytes(b"weights")
    data = cairn.save_dataset("digits", tmp_path / "weights.onnx")
    made = cairn.save_model(
        tmp_path / "weights.onnx", "net", framework="onnx", metrics={"val": {"acc": 0.5}},
        metadata={"layers": 3}, made_from=["digits:v1"], aliases=["best"],
    )  # fmt: skip
    about, content = kept(job, made)
    assert about["kind"] == "model"
    assert about["metadata"] == {"layers": 3, "framework": "onnx", "metrics": {"val/acc": 0.5}}
    assert (about["sources"], about["aliases"]) == (["digits:v1"], ["best"])
    assert (content / "weights.onnx").read_bytes() == b"weights"
    assert data is not None
    assert data.ref == "digits:v1"
    with pytest.raises(ValueError, match="no number"):
        cairn.save_model(tmp_path / "weights.onnx", "net", metrics={"acc": "good"})  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError, match="no nothing:latest"):
        cairn.save_model(tmp_path / "weights.onnx", "net", made_from=["nothing"])


def test_a_module_is_saved_as_its_state(job: _run.Run) -> None:
    torch = pytest.importorskip("torch")
    about, content = kept(job, cairn.save_model(torch.nn.Linear(2, 1), "net"))
    assert about["metadata"] == {"framework": "pytorch", "metrics": {}}
    assert set(torch.load(content / "state.pt", weights_only=True)) == {"weight", "bias"}


def test_a_table_is_kept_with_its_columns_and_rows(job: _run.Run) -> None:
    rows = [{"x": 1, "label": "a"}, {"x": 2, "label": "b"}]
    about, content = kept(job, cairn.save_dataset("rows", rows, metadata={"from": "me"}))
    columns = [{"name": "x", "type": "int"}, {"name": "label", "type": "str"}]
    assert about["metadata"] == {"format": "jsonl", "rows": 2, "columns": columns, "from": "me"}
    assert [json.loads(line) for line in (content / "data.jsonl").read_text().splitlines()] == rows
    pandas, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    about, content = kept(job, cairn.save_dataset("frame", pandas.DataFrame({"x": [1, 2, 3]})))
    assert (about["metadata"]["format"], about["metadata"]["rows"]) == ("parquet", 3)
    assert parquet.read_table(content / "data.parquet").column("x").to_pylist() == [1, 2, 3]
    table = parquet.read_table(content / "data.parquet")
    about, _ = kept(job, cairn.save_dataset("table", table))
    assert about["metadata"]["columns"] == [{"name": "x", "type": "int64"}]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "digits.csv").write_bytes(b"x,y\n1,2\n")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path / "site"))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_stays_where_it_is_is_known_by_its_digest(
    job: _run.Run, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="is a private address"):
        cairn.save_dataset("far", f"{site}/digits.csv")
    monkeypatch.setenv("CAIRN_PRIVATE_REFERENCES", "1")
    about, content = kept(job, cairn.save_dataset("far", f"{site}/digits.csv"))
    digest = "sha256:" + hashlib.sha256(b"x,y\n1,2\n").hexdigest()
    known = {"uri": f"{site}/digits.csv", "digest": digest, "size": 8}
    assert about["metadata"] == {"format": "reference", "references": [known], "reference_count": 1}
    assert [path.name for path in content.iterdir()] == ["references.json"]
    assert json.loads((content / "references.json").read_text())["references"] == [known]
    told = {"uri": "s3://bucket/big/", "digest": "sha256:" + "a" * 64}
    about, _ = kept(job, cairn.save_dataset("huge", told["uri"], digest=told["digest"]))
    assert about["metadata"]["references"] == [told], "believed, not fetched"


@pytest.mark.parametrize(
    "inside",
    ["http://169.254.169.254/latest", "http://10.1.2.3/x", "http://[::1]:80/x", "http://[::ffff:127.0.0.1]/x",
     "http://localhost/x", "https://192.168.0.1/x"],
)  # fmt: skip
def test_an_address_does_not_lead_inside_and_neither_does_a_redirect(job: _run.Run, inside: str) -> None:
    with pytest.raises(ValueError, match="CAIRN_PRIVATE_REFERENCES"):
        cairn.save_dataset("inside", inside)
    asked = urllib.request.Request("https://example.org/x")
    with pytest.raises(ValueError, match="private address"):
        _Redirects().redirect_request(asked, io.BytesIO(), 302, "Found", {}, inside)


@pytest.mark.parametrize(
    ("data", "digest", "told"),
    [
        ("https://ada:secret@host/x", "sha256:aa", "holds a password or a signature"),
        ("https://host/x?X-Amz-Signature=abc", "", "holds a password or a signature"),
        ("s3://bucket/x", "nodigest", "is not such as"),
        ("nosuch://bucket/x", "", "or give digest="),
        (["s3://a/x", "s3://a/y"], "sha256:aa", "of one reference"),
        ([{"x": 1}], "sha256:aa", "digest is of a reference"),
        ([], "", "an empty list"),
        (3, "", "int is no dataset"),
    ],
)
def test_what_is_no_dataset_is_refused_with_what_to_give(
    job: _run.Run, data: Any, digest: str, told: str
) -> None:
    with pytest.raises((ValueError, TransferError), match=told) as refused:
        cairn.save_dataset("bad", data, digest=digest)
    assert "secret" not in str(refused.value)


def test_an_evaluation_names_the_versions_that_it_is_of(job: _run.Run, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("w")
    model = cairn.save_model(tmp_path / "w", "net")
    cairn.save_dataset("digits", [{"x": 1}])
    assert model is not None
    metrics = {"acc": 0.9, "loss": float("nan")}
    about, content = kept(
        job, cairn.log_evaluation(model, "digits", metrics, table=[{"x": 1, "right": True}])
    )
    assert about["kind"] == "evaluation"
    told = {"model": "net:v1", "dataset": "digits:v1", "metrics": {"acc": 0.9, "loss": "NaN"}}
    assert about["metadata"] == told
    assert about["sources"] == ["net:v1", "digits:v1"]
    assert json.loads((content / "metrics.json").read_text()) == told
    assert (content / "table.jsonl").exists()
    assert store(job, "net-on-digits").is_dir()
    with pytest.raises(ValueError, match="at least one number"):
        cairn.log_evaluation(model, "digits", {})


def test_trouble_is_a_warning_in_a_run_that_is_not_strict(
    job: _run.Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "strict", False)
    with caplog.at_level(logging.WARNING):
        assert cairn.save_dataset("bad", 3) is None
        assert cairn.log_evaluation("no:v1", "none", {"acc": 1}) is None
    assert len(caplog.records) == 2


def test_nothing_is_imported_for_what_is_not_handed_in(tmp_path: Path) -> None:
    code = (
        "import sys, cairn; cairn.init(); cairn.save_dataset('rows', [{'x': 1}]); cairn.log({'x': 1});"
        "print(sorted(m for m in ('pandas', 'pyarrow', 'torch', 'fsspec', 'polars') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
