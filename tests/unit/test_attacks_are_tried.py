"""Each attack that the platform has to withstand, each promise at its door, and their tests: none is without.

What somebody may do with no token, another team's, a run's or a viewer's; with a page in a victim's browser;
with odd bytes; from the same machine.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ATTACKS: dict[str, tuple[str, ...]] = {
    "1 no token, or junk, on every route and method": (
        "service/test_access_matrix.py::test_no_route_answers_without_a_good_token",
        "service/test_access_matrix.py::test_no_rpc_answers_without_a_good_token",
        "service/test_gateway_mlflow.py::test_no_route_answers_without_a_good_token",
    ),
    "2 other spellings of a route, other methods": (
        "service/test_gateway_http.py::test_other_spellings_of_a_path_lead_nowhere",
        "service/test_gateway_http.py::test_a_method_is_what_the_request_line_says",
    ),
    "3 ids of another team": (
        "e2e/test_attacks.py::test_ids_of_another_team_lead_nowhere",
        "service/test_access_matrix.py::test_no_rpc_shows_another_team_to_exist",
        "service/test_tracker_lineage.py::test_another_teams_lineage_is_not_there",
    ),
    "4 a member promotes themselves or their program": (
        "service/test_quota_users.py::test_nobody_raises_themselves_or_their_program_on_any_path",
        "service/test_quota_access.py::test_no_token_makes_one_that_can_more_or_lives_longer",
    ),
    "5 a run's token beyond its run": (
        "e2e/test_attacks.py::test_a_leaked_run_token_touches_no_other_run_and_no_committed_byte",
        "service/test_access_matrix.py::test_a_runs_token_opens_the_rpcs_of_runs_alone",
    ),
    "6 a run's token on the bus": (
        "service/test_quota_callout.py::test_a_runs_token_publishes_for_its_run_and_does_nothing_else",
    ),
    "7 a message id of another run": (
        "service/test_tracker_once.py::test_every_point_is_there_once_after_kills_doubles_overtaking_and_rubbish",
    ),
    "8 a subject that is not the payload's": (
        "service/test_tracker_ingest.py::test_what_is_no_event_is_put_aside_and_the_rest_goes_on",
        "unit/test_common_values.py::test_a_subject_takes_no_wildcard_nor_anything_odd",
    ),
    "9 expired, revoked, rotated tokens; tokens in logs": (
        "service/test_quota_access.py::test_a_revocation_is_told_and_secrets_are_nowhere",
        "e2e/test_attacks.py::test_a_share_link_shows_its_runs_alone_and_nothing_once_it_is_revoked",
        "service/test_quota_callout.py::test_revoking_a_token_ends_its_connection_and_it_does_not_come_back",
        "service/test_quota_access.py::test_a_repeated_request_gives_the_same_token_a_new_secret",
        "unit/test_common_values.py::test_secrets_never_reach_the_log",
    ),
    "10 tokens that say of themselves what they are": (
        "e2e/test_attacks.py::test_no_token_is_believed_for_what_it_says",
        "service/test_sign_on_attacks.py::test_no_signature_but_by_a_published_key_counts",
        "service/test_sign_on_attacks.py::test_what_is_not_said_for_this_login_by_this_provider_is_nothing",
    ),
    "11 a start without secrets, or with open ones": (
        "unit/test_server_home.py::test_secrets_are_made_once_and_for_us_alone",
        "unit/test_quota_bootstrap.py::test_a_file_that_others_can_read_is_refused",
    ),
    "12 artifact names that are paths": (
        "e2e/test_attacks.py::test_no_name_leads_out_of_an_artifact",
        "unit/test_tracker_pure.py::test_paths_that_lead_elsewhere_are_refused",
        "unit/test_mlflow_fields.py::test_no_path_leads_out",
    ),
    "13 somebody else's upload": (
        "service/test_tracker_artifacts.py::test_nobody_is_given_a_url_to_write_over_what_a_version_is_made_of",
    ),
    "14 a source that the server would fetch": (
        "e2e/test_attacks.py::test_no_source_is_fetched_that_a_client_names",
    ),
    "15 a manifest that leads out of the folder it is unpacked in": (
        "unit/test_sdk_client_paths.py::test_a_path_that_could_lead_out_is_refused",
        "unit/test_sdk_client_paths.py::test_files_are_not_written_through_links",
    ),
    "16 a signed URL for another key or method": (
        "e2e/test_attacks.py::test_a_signed_url_is_good_for_one_key_and_one_method",
        "contract/test_object_store.py::test_a_signed_url_is_good_for_its_method_and_its_key_alone",
    ),
    "17 a wrong digest or size at the commit": (
        "service/test_tracker_artifacts.py::"
        "test_bytes_that_are_not_those_of_their_digest_are_refused_until_they_are",
        "service/test_tracker_artifacts.py::test_a_part_of_another_size_is_refused_until_it_is_uploaded_whole",
    ),
    "18 asking whether another team has these bytes": (
        "e2e/test_attacks.py::test_ids_of_another_team_lead_nowhere",
    ),
    "19 pictures and pages that run as code": (
        "unit/test_sdk_media.py::test_figures_and_files_are_pictures_as_they_are",
    ),
    "20 SQL in names and filters": (
        "e2e/test_attacks.py::test_no_question_takes_more_than_its_share",
        "service/test_tracker_search.py::test_a_search_that_cannot_be_is_refused_and_shows_nobody_elses_runs",
    ),
    "21 questions that cost too much": (
        "e2e/test_attacks.py::test_no_question_takes_more_than_its_share",
        "unit/test_tracker_expression.py::test_what_is_nested_too_deep_is_refused",
    ),
    "22 metrics that are none": (
        "service/test_tracker_once.py::test_of_an_event_that_holds_what_cannot_be_kept_the_rest_is_kept",
        "service/test_tracker_ingest.py::test_nan_and_infinities_are_kept_and_left_out_of_the_extremes",
        "unit/test_sdk_run.py::test_a_bad_value_costs_one_warning_and_the_others_are_kept",
    ),
    "23 JSON that is deep, large, doubled or packed": (
        "e2e/test_attacks.py::test_what_is_deep_long_or_no_json_is_refused",
        "service/test_gateway_headers.py::test_bodies_come_packed",
    ),
    "24 messages that are none": (
        "service/test_contracts.py::test_no_message_leads_to_an_internal_error",
        "service/test_contracts.py::test_no_message_leads_a_stream_into_an_internal_error",
        "service/test_contracts.py::test_no_stream_of_messages_leads_to_an_internal_error",
    ),
    "25 slow and endless requests": (
        "e2e/test_attacks.py::test_a_head_that_never_ends_is_cut",
        "service/test_gateway_http.py::test_one_token_cannot_take_all_the_room",
        "unit/test_gateway_edge.py::test_who_does_not_read_is_cut_where_something_would_be_missing",
        "service/test_gateway_floods.py::"
        "test_idle_connections_take_room_from_each_other_and_not_from_who_asks",
        "service/test_gateway_floods.py::test_a_head_that_does_not_come_is_not_waited_for",
        "service/test_gateway_floods.py::test_of_a_body_that_nobody_wants_the_rest_is_not_waited_for",
        "service/test_gateway_floods.py::test_who_comes_in_slowly_takes_no_room_of_those_who_are_in",
        "unit/test_common_rpc_floods.py::test_others_are_served_while_somebody_floods_the_port",
        "unit/test_common_rpc_floods.py::test_others_are_served_while_calls_are_begun_that_send_nothing",
        "unit/test_common_rpc_floods.py::test_a_message_that_does_not_come_is_not_waited_for",
        "unit/test_common_rpc_floods.py::"
        "test_health_is_told_while_somebody_elsewhere_asks_for_it_and_sends_nothing",
    ),
    "26 another page in the victim's browser": (
        "service/test_sign_on.py::test_a_login_is_of_the_browser_that_began_it_and_good_once",
        "service/test_gateway_people.py::test_a_loopback_login_leads_to_this_machine_alone_and_is_good_once",
        "e2e/test_attacks.py::test_no_other_page_can_make_a_browser_ask",
        "e2e/test_attacks.py::test_a_page_that_leads_its_own_name_here_gets_nothing",
        "service/test_gateway_people.py::"
        "test_the_page_comes_in_by_a_cookie_that_no_script_and_no_other_site_can_use",
    ),
    "27 names that are markup": (
        "e2e/test_attacks.py::test_what_names_hold_stays_text",
        "unit/test_quota_webhook.py::test_a_name_is_no_markup_for_slack",
    ),
    "28 names that are headers or log lines": ("e2e/test_attacks.py::test_what_names_hold_stays_text",),
    "29 a task that reaches for the server": (
        "unit/test_scheduler_fields.py::"
        "test_secrets_and_registries_reach_skypilot_and_files_of_the_caller_do_not",
        "service/test_sdk_runner.py::test_the_command_gets_its_own_environment_and_nothing_of_the_platforms",
    ),
    "30 a job that looks for the platform's secrets": (
        "e2e/test_attacks.py::test_a_job_is_given_its_own_and_nothing_of_the_platform",
    ),
    "31 secrets in logs, arguments and answers": (
        "e2e/test_attacks.py::test_no_secret_lies_about_and_no_file_is_open",
        "service/test_scheduler_secrets.py::test_they_survive_a_retry_and_are_never_seen",
        "service/test_scheduler_secrets.py::test_what_cannot_be_is_refused_without_its_value",
        "service/test_quota_secrets.py::"
        "test_admins_set_the_teams_everybody_their_own_and_nobody_is_shown_them",
        "service/test_quota_secrets.py::test_who_may_not_and_what_cannot_be_is_refused_without_its_value",
        "unit/test_cli_secrets.py::test_a_value_is_not_taken_from_the_command_line",
        "unit/test_cli_secrets.py::test_no_error_says_a_value",
    ),
    "32 the servers' own ports": (
        "e2e/test_attacks.py::test_the_servers_behind_ask_for_a_password",
        "service/test_tls.py::test_nobody_comes_in_without_a_certificate_of_the_authority",
        "service/test_tls_servers.py::test_a_neighbour",
        "service/test_tls_servers.py::"
        "test_a_bus_that_does_not_speak_tls_is_told_nothing_at_an_address_that_does",
    ),
    "33 folders and files that are open to others": (
        "e2e/test_attacks.py::test_no_secret_lies_about_and_no_file_is_open",
        "unit/test_server_home.py::test_an_open_folder_is_refused_with_the_remedy",
    ),
    "34 two platforms on one folder": (
        "e2e/test_attacks.py::test_a_second_platform_on_the_same_folder_is_told_of_the_first",
        "e2e/test_up.py::test_after_kill_9_of_the_supervisor_it_goes_on_where_it_was",
    ),
    "35 a clock that is wrong": (
        "service/test_sdk_runner_hardy.py::test_times_do_not_jump_when_the_clock_is_wrong",
        "unit/test_scheduler_symptoms.py::test_times_of_a_wrong_clock_are_brought_to_what_is_possible",
    ),
    "36 a full disk": (
        "chaos/test_full_disk.py::test_a_disk_that_fills_up_loses_nothing",
        "unit/test_sdk_spool.py::test_a_full_disk_warns_once_keeps_a_ring_and_counts_what_it_drops",
    ),
    "37 more than the quota, by any road": (
        "service/test_quota_allocation.py::test_50_parallel_submits_against_room_for_one_admit_exactly_one",
        "service/test_quota_api.py::test_500_parallel_reservations_never_hold_more_than_the_limit",
    ),
    "38 old events once more": (
        "service/test_tracker_ingest.py::test_what_is_sent_often_in_any_order_over_restarts_is_there_once",
        "service/test_quota_metering.py::test_events_on_the_bus_settle_and_poison_among_them_stops_nothing",
    ),
    "39 a webhook to an address inside": (
        "unit/test_quota_webhook.py::test_what_is_not_public_is_refused",
        "service/test_quota_webhooks.py::test_what_lies_inside_is_not_spoken_to",
        "service/test_quota_webhooks.py::test_what_a_name_leads_to_later_is_not_spoken_to",
        "service/test_quota_webhooks.py::test_what_is_not_taken_is_sent_again_and_no_redirect_is_followed",
        "service/test_quota_webhooks.py::test_an_endless_answer_is_not_read_to_its_end",
    ),
    "40 another program in the place of ours": (
        "unit/test_server_wheels.py::test_a_program_is_the_one_in_its_wheel_whatever_the_path_says",
    ),
}

GUARANTEES: dict[str, tuple[str, ...]] = {
    "a team sees and changes nothing of another one": (
        "service/test_access_matrix.py::test_no_route_shows_another_team_to_exist",
        "service/test_access_matrix.py::test_no_rpc_shows_another_team_to_exist",
        "service/test_access_matrix.py::test_who_may_only_look_changes_nothing",
        "service/test_gateway_live.py::test_only_the_caller_s_team_is_told_of",
        "e2e/test_attacks.py::test_ids_of_another_team_lead_nowhere",
    ),
    "a leaked token of a run reaches that run alone, and ends with it": (
        "e2e/test_attacks.py::test_a_leaked_run_token_touches_no_other_run_and_no_committed_byte",
        "service/test_access_matrix.py::test_a_runs_token_opens_the_routes_of_runs_alone",
        "service/test_quota_access.py::test_a_runs_token_lives_by_renewal_and_dies_by_revocation",
        "service/test_quota_callout.py::test_a_runs_token_publishes_for_its_run_and_does_nothing_else",
        "service/test_quota_callout.py::test_a_connection_ends_with_its_token",
    ),
    "what is malformed stops nobody else": (
        "service/test_common_bus.py::test_one_poison_message_is_buried_and_the_others_pass_in_order",
        "service/test_quota_metering.py::test_events_on_the_bus_settle_and_poison_among_them_stops_nothing",
        "service/test_tracker_ingest.py::test_what_is_no_event_is_put_aside_and_the_rest_goes_on",
        "service/test_gateway_live.py::test_what_cannot_be_read_is_passed_over",
    ),
    "too much is refused with when to come back": (
        "service/test_gateway_http.py::test_one_token_cannot_take_all_the_room",
        "service/test_gateway_floods.py::test_one_team_cannot_take_all_the_room",
        "service/test_gateway_floods.py::test_a_token_that_asks_too_often_is_told_when_to_come_back",
        "unit/test_common_rpc_floods.py::test_a_token_that_asks_too_often_is_told_when_to_come_back",
        "service/test_gateway_people.py::test_a_guesser_is_told_how_long_to_wait",
    ),
    "what is sent again makes nothing twice, and its secret is for who sent it first": (
        "service/test_scheduler_api.py::test_a_request_id_makes_one_job_however_often_it_is_sent",
        "service/test_quota_once.py::test_twenty_at_once_and_a_lost_answer_make_one_and_each_gets_the_same",
        "service/test_quota_once.py::"
        "test_an_id_stands_for_one_request_and_a_secret_is_told_for_an_hour_to_one_token",
        "service/test_tracker_promotions.py::test_what_is_sent_again_moves_nothing_again",
    ),
    "no clock tells who has an account": (
        "unit/test_quota_passwords.py::test_the_same_work_is_done_for_a_user_and_for_nobody",
    ),
    "what was done is noted with who, when and by which request, and stays": (
        "service/test_quota_users.py::test_what_was_done_is_noted_with_who_and_from_where_and_stays",
        "service/test_quota_audit.py::test_what_people_did_at_the_neighbours_is_noted_once",
        "service/test_tracker_audit.py::"
        "test_pins_rules_models_and_experiments_are_told_with_who_changed_them",
    ),
}


def test_they_are_forty() -> None:
    assert [int(name.split()[0]) for name in ATTACKS] == list(range(1, 41))


@pytest.mark.parametrize("promise", [*ATTACKS, *GUARANTEES])
def test_every_attack_is_tried_and_every_promise_tested(promise: str) -> None:
    for place in (ATTACKS | GUARANTEES)[promise]:
        file, _, name = place.partition("::")
        source = (TESTS / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), place
