"""The demo's own judgement must be able to say no."""

from __future__ import annotations

from cairn_server.demo.facts import Training, faults_of_curve


def test_a_whole_curve_has_no_fault() -> None:
    assert faults_of_curve([1, 2, 3], 3) == []


def test_a_hole_a_double_and_a_stranger_are_each_named() -> None:
    assert faults_of_curve([1, 3], 3) == ["1 points are missing, the first at step 2"]
    assert faults_of_curve([1, 2, 2, 3], 3) == ["1 points are there twice"]
    assert faults_of_curve([1, 2, 3, 9], 3) == ["1 points were never logged, the first at step 9"]


def test_a_late_earlier_version_of_a_job_changes_nothing() -> None:
    training = Training(uid="a", params={})
    training.hear_job({"revision": 5, "state": "RUNNING", "attempts": [{"pids": [7]}]})
    training.hear_job({"revision": 4, "state": "LAUNCHING", "attempts": []})
    assert (training.state, training.pids) == ("RUNNING", (7,))


def test_it_is_in_mid_epoch_only_past_a_checkpoint_and_off_a_boundary() -> None:
    training = Training(uid="a", params={}, state="RUNNING", pids=(7,))
    training.step = 50
    assert not training.in_mid_epoch(45), "no checkpoint yet"
    training.hear_checkpoint(45)
    assert training.in_mid_epoch(45)
    training.step = 90
    assert not training.in_mid_epoch(45), "an epoch has just ended"
