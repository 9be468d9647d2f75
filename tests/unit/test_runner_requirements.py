"""Requirements files: includes, what belongs to the working directory, and what changes the identity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cairn._runner import plans, requirements
from cairn._runner.plans import Wanted
from cairn._runner.requirements import BadRequirements, Requirements


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_includes_are_followed_and_comments_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        r_txt="# all\nnumpy>=2  # why\n\n-r more/base.txt\n--constraint=c.txt\nt==2.6 \\\n --hash=sha256:1\n",
        more__base_txt="-rinner.txt\nsix\n-r ../r.txt\n",
        more__inner_txt="tqdm\n",
        c_txt="six<2\n",
    )
    found = requirements.read(tmp_path, "r.txt")
    assert found.lines == ("numpy>=2", "tqdm", "six", "t==2.6 --hash=sha256:1")
    assert found.constraints == ("six<2",)
    assert found.files == ("r.txt", "more/base.txt", "more/inner.txt", "c.txt")


def test_what_belongs_to_the_working_directory_is_set_apart(tmp_path: Path) -> None:
    write(tmp_path, wheels__a_txt="", pkg__setup_txt="")
    found = requirements.parse(
        tmp_path,
        [
            "-e .", "--editable=./pkg[dev]", "-e git+https://host/x.git#egg=x", "./pkg", "-f wheels",
            "https://host/y-1.0.tar.gz", "z @ file:///opt/z.whl", "six",
        ],
    )  # fmt: skip
    assert found.editable == (".", "./pkg[dev]")
    assert found.lines[0] == "-e git+https://host/x.git#egg=x"
    assert found.lines[2] == f"--find-links {tmp_path}/wheels"
    assert found.local == (tmp_path / "pkg", tmp_path / "wheels", Path("/opt/z.whl"))


@pytest.mark.parametrize(
    ("name", "told"), [("no.txt", "no file no.txt"), ("bad.txt", "cannot be read"), ("d", "is a folder"),
                       ("outer.txt", "no file gone.txt (included by outer.txt)")],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "d").mkdir()
    write(tmp_path, outer_txt="-r gone.txt")
    with pytest.raises(BadRequirements) as refused:
        requirements.read(tmp_path, name)
    assert told in str(refused.value)


def digest(root: Path, wanted: Wanted, **variables: str) -> str:
    given = {"PATH": os.environ["PATH"], "PIP_INDEX_URL": "x", **variables}
    return plans.plan(wanted, work=root, scratch=root / "scratch", variables=given).digest


def test_the_same_content_has_the_same_identity_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, a_txt="numpy  # one\n\nsix", b_txt="-r c.txt\nsix", c_txt="numpy")
    write(tmp_path, d_txt="numpy\nsix\n./pkg", pkg__setup_txt="1")
    lines = Wanted(requirements=("numpy", "six"))
    same = digest(tmp_path, lines)
    assert digest(tmp_path, Wanted(requirements_file="a.txt")) == same
    assert digest(tmp_path, Wanted(requirements_file="b.txt")) == same
    write(tmp_path, c_txt="numpy<2")
    local = digest(tmp_path, Wanted(requirements_file="d.txt"))
    write(tmp_path, pkg__setup_txt="2")
    others = [
        digest(tmp_path, Wanted(requirements_file="b.txt")),
        digest(tmp_path, Wanted(requirements=("six", "numpy"))),
        digest(tmp_path, lines, PIP_INDEX_URL="y"),
        local,
        digest(tmp_path, Wanted(requirements_file="d.txt")),
        digest(tmp_path, Wanted(requirements=("${WHICH}",)), WHICH="numpy"),
        digest(tmp_path, Wanted(requirements=("${WHICH}",)), WHICH="six"),
    ]
    assert len({same, *others}) == len(others) + 1
    assert digest(tmp_path, lines, MINE="1") == same, "what does not decide does not count"


def test_a_requirement_without_files_names_none() -> None:
    assert requirements.parse(Path("/"), ["six"]) == Requirements(("six",))
