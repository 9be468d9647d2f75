"""What MLflow's clients send: read with MLflow's messages, and nobody let in without a token."""

from __future__ import annotations

import base64
import math
from types import MappingProxyType
from typing import Any

import pytest

from cairn_common.auth import Principal, Role, Scope
from cairn_common.errors import Unauthenticated
from cairn_gateway.mlflow import refuse_path
from cairn_gateway.mlflow.door import team_of, token_of
from cairn_gateway.mlflow.errors import MlflowError
from cairn_gateway.mlflow.fields import Fields, number, of_body, of_query, whole

SEE = " See the API docs for more information about request parameters."


def refusal(read: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(MlflowError) as raised:
        read(*given, **named)
    assert raised.value.code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    return str(raised.value)


def test_what_is_missing_or_of_another_type_is_told_in_mlflows_words() -> None:
    fields = of_body(b'{"name": 123, "empty": "", "tags": {"a": 1}, "step": "4.5"}')
    assert (
        refusal(fields.text, "other", required=True) == f"Missing value for required parameter 'other'.{SEE}"
    )
    assert (
        refusal(fields.text, "empty", required=True) == f"Missing value for required parameter 'empty'.{SEE}"
    )
    assert (
        refusal(fields.text, "name")
        == f"Invalid value 123 for parameter 'name' supplied:  Hint: Value was of type 'int'.{SEE}"
    )
    assert "for parameter 'tags' supplied:  Hint: Value was of type 'dict'" in refusal(fields.pairs, "tags")
    assert "Invalid value \"4.5\" for parameter 'step'" in refusal(fields.whole, "step")
    assert fields.run_id.__name__ == "run_id"
    assert "'run_id'" in refusal(fields.run_id)


def test_the_old_name_of_a_run_counts_where_the_new_one_is_missing() -> None:
    assert Fields({"run_uuid": "old"}).run_id() == "old"
    assert Fields({"run_uuid": "old", "run_id": "new"}).run_id() == "new"


@pytest.mark.parametrize("text", [b"[1]", b"{", b'"x"', b"[" * 100_000, b"12"])
def test_what_is_no_object_is_a_bad_request(text: bytes) -> None:
    with pytest.raises(MlflowError) as raised:
        of_body(text)
    assert raised.value.code == "BAD_REQUEST"


def test_an_object_may_be_wrapped_into_a_text_and_a_body_may_be_empty() -> None:
    assert of_body(b'"{\\"a\\": 1}"').values == {"a": 1}
    assert of_body(b"").values == {}


def test_numbers_may_be_texts() -> None:
    assert (whole("n", "12"), whole("n", 12.0), whole("n", -3)) == (12, 12, -3)
    for wrong in ("1_0", "x", 2**63, True, None, 1.5, [1], "9" * 30):
        refusal(whole, "n", wrong)
    assert math.isnan(number("n", "NaN"))
    assert (number("n", "-Infinity"), number("n", "1e3"), number("n", 2)) == (-math.inf, 1000.0, 2.0)
    for wrong in ("1_0", "x", True, None, [1], 10**400):
        refusal(number, "n", wrong)


def test_a_query_holds_texts_alone() -> None:
    fields = of_query([("run_ids", "a"), ("run_ids", "b"), ("one", "x"), ("yes", "True"), ("odd", "maybe")])
    assert fields.text_items("run_ids") == ["a", "b"]
    assert fields.text_items("one") == ["x"]
    assert fields.flag("yes")
    assert "must be 'true' or 'false'" in refusal(fields.flag, "odd")


def test_a_token_is_a_bearers_or_the_password_of_basic() -> None:
    basic = base64.b64encode(b"ada:cairn_secret").decode()
    assert token_of(["Bearer cairn_secret"]) == token_of([f"Basic {basic}"]) == "cairn_secret"
    empty = base64.b64encode(b"ada:").decode()
    for wrong in ([], ["Basic"], [f"Basic {empty}"], ["Basic !!!"], ["Digest x"], ["Bearer a", "Bearer b"]):
        with pytest.raises(Unauthenticated):
            token_of(wrong)


def test_a_workspace_is_a_team_of_the_callers() -> None:
    def who(*teams: str) -> Principal:
        return Principal("users/ada", Scope.WRITE, MappingProxyType(dict.fromkeys(teams, Role.MEMBER)))

    assert team_of(["vision"], who("vision", "main")) == "vision"
    assert team_of([], who("vision", "main")) == "main"
    assert team_of([" "], who("vision")) == "vision"
    assert "yours are: audio, vision" in refusal(team_of, [], who("vision", "audio"))
    with pytest.raises(MlflowError) as unknown:
        team_of(["rivals"], who("main"))
    assert (unknown.value.code, str(unknown.value)) == (
        "RESOURCE_DOES_NOT_EXIST",
        "Workspace 'rivals' not found",
    )


@pytest.mark.parametrize("path", ["/mlflow/../x", "/mlflow/a/..", "/mlflow/a\\b", "/mlflow/a\x00"])
def test_no_path_leads_out(path: str) -> None:
    assert refusal(refuse_path, path, b"") == "Invalid path"
