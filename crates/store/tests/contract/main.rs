//! What a store promises, shown on both engines: every case runs on SQLite in a
//! directory of its own and on PostgreSQL in a database of its own (`make test`
//! starts the server). What only one engine can show stands at the end.

#![expect(clippy::unwrap_used, reason = "a case that cannot go on fails here")]

mod bed;
mod doctor;
mod durability;
mod episodes;
mod goals;
mod graph;
mod guards;
mod kept;
mod lane_model;
mod lanes;
mod lists;
mod log;
mod make;
mod postgres_sessions;
mod postgres_tls;
mod resources;
mod run_chunks;
mod statements;
mod text;
mod tools;
mod users;

macro_rules! on_both_engines {
    ($($module:ident :: $case:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::bed::Bed::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::bed::Bed::postgres().await).await;
            })*
        }
    };
}

on_both_engines! {
    resources::agents_keep_every_field,
    resources::sessions_keep_every_field,
    resources::messages_keep_every_field_and_their_order,
    resources::runs_keep_every_field,
    resources::keys_open_their_organisation,
    goals::a_goal_is_below_one_of_its_organisation,
    goals::a_task_depends_on_those_of_its_organisation,
    episodes::a_groups_queue_has_a_bound_and_an_end,
    episodes::episodes_know_their_neighbours,
    episodes::facts_are_kept_closed_and_forgotten,
    episodes::what_waits_for_a_model_has_a_job_and_what_it_said_another,
    episodes::vectors_are_kept_in_the_order_they_were_made,
    graph::nodes_and_edges_keep_every_field,
    graph::nodes_are_listed_and_found_by_name,
    graph::guards_of_graphs_tell_what_is_wrong,
    graph::edges_are_read_from_either_end,
    graph::graphs_behave_as_their_model,
    graph::the_doctor_recounts_graphs,
    guards::a_changed_or_missing_thing_is_told_apart,
    guards::a_name_is_unique_for_its_user,
    guards::a_request_is_remembered_for_a_day,
    guards::a_failed_write_leaves_nothing,
    guards::a_failure_touches_no_other_write_of_its_group,
    guards::a_write_that_was_given_up_before_its_turn_is_not_applied,
    guards::too_many_waiting_writes_are_refused,
    guards::who_writes_too_much_waits_for_itself,
    lists::every_list_has_its_order_its_cursor_and_its_total,
    lists::filters_select_and_count,
    lists::a_filtered_total_is_capped,
    lists::counters_equal_a_recount,
    run_chunks::text_of_a_run_is_kept_until_its_end,
    run_chunks::runs_that_go_on_are_told,
    lanes::a_lane_is_first_in_first_out,
    lanes::a_full_and_an_idle_lane_are_told_apart,
    lanes::a_job_can_go_to_the_front,
    lanes::turns_go_round_whoever_has_how_many,
    lanes::no_job_is_claimed_twice,
    lanes::a_lost_fence_cannot_write,
    lanes::a_session_with_work_is_not_deleted,
    lanes::busy_lanes_keep_their_order,
    lane_model::lanes_behave_as_their_model,
    log::the_log_is_dense_and_in_order,
    log::an_organisation_reads_its_own,
    log::a_trimmed_log_is_one_piece_without_a_gap,
    log::a_ticket_is_taken_once,
    text::a_scope_finds_its_own_and_no_other,
    text::a_deleted_session_is_forgotten,
    doctor::the_doctor_finds_what_does_not_agree,
    doctor::the_doctor_looks_deeper_when_asked,
    text::memories_are_found_by_words_user_and_marks,
    tools::an_mcp_server_keeps_its_secrets_and_its_catalogue,
    tools::calls_of_a_run_are_kept_until_its_end,
    users::what_leads_to_a_user_stays_in_its_organisation,
    durability::what_was_acknowledged_is_there_after_reopening,
    durability::a_newer_version_s_database_is_refused,
    durability::a_closed_store_refuses,
    statements::every_statement_prepares_and_none_reads_a_whole_table,
}
