//! Every driver keeps the same contract. One suite runs for each.

/// Makes a test function of each named test of `suite` or `sockets`, and runs it with each of `$with`.
macro_rules! tests {
    ($name:ident, $part:ident, $with:expr, [$($test:ident),* $(,)?]) => {
        mod $name {
            #[allow(unused_imports, reason = "each driver needs some of it")]
            use {
                crate::conformance::{simulated::SimKit, sockets::{Make, SocketKit, uring}},
                echoring_runtime::driver::{epoll::Epoll, sim::Faults},
            };
            $(#[test]
            fn $test() {
                for with in $with {
                    crate::conformance::$part::$test(with);
                }
            })*
        }
    };
}

/// Runs the whole suite for each kit.
macro_rules! whole_suite {
    ($name:ident, $kits:expr) => {
        tests!(
            $name,
            suite,
            $kits,
            [
                a_run_rewritten_in_place_is_sent_back,
                runs_of_one_turn_lie_apart,
                all_pieces_of_a_turn_leave_in_order,
                a_short_send_is_finished_inside,
                what_is_taken_back_is_not_sent,
                what_is_taken_back_is_not_flushed,
                only_what_is_shared_and_last_is_taken_back,
                a_paused_connection_is_not_read,
                pausing_and_resuming_loses_nothing,
                a_reset_is_noticed_during_a_pause,
                a_half_close_is_noticed_during_a_pause,
                an_end_is_told_once_and_sending_goes_on,
                a_reset_is_a_failure_and_the_owner_lets_go,
                after_a_shutdown_receiving_goes_on,
                a_close_flushes_first,
                an_abort_drops_what_is_unsent,
                an_address_is_told_to_who_asks,
                a_stale_token_does_nothing,
                a_full_table_takes_nobody_until_one_leaves,
                a_driver_that_stopped_listening_keeps_its_connections,
                a_flood_does_not_starve_a_quiet_connection,
                a_wake_ends_the_wait_once,
                a_connection_goes_on_in_another_driver,
                the_rest_of_a_short_send_is_told,
                what_is_staged_leaves_before_the_connection,
                what_is_unread_is_read_by_the_next_driver,
                a_connection_that_ends_does_not_move,
                a_full_driver_returns_the_socket,
            ]
        );
    };
}

/// Runs the tests of drivers with real sockets, for each constructor.
macro_rules! sockets_suite {
    ($makes:expr) => {
        whole_suite!(tcp, $makes.into_iter().map(SocketKit::tcp));
        // A unix socket has its own form of reset and smaller buffers; the rest is the same.
        tests!(
            unix,
            suite,
            $makes.into_iter().map(SocketKit::unix),
            [
                a_run_rewritten_in_place_is_sent_back,
                all_pieces_of_a_turn_leave_in_order,
                a_short_send_is_finished_inside,
                what_is_taken_back_is_not_sent,
                what_is_taken_back_is_not_flushed,
                only_what_is_shared_and_last_is_taken_back,
                pausing_and_resuming_loses_nothing,
                an_end_is_told_once_and_sending_goes_on,
                after_a_shutdown_receiving_goes_on,
                a_close_flushes_first,
                an_abort_drops_what_is_unsent,
                a_connection_goes_on_in_another_driver,
                the_rest_of_a_short_send_is_told,
            ]
        );
        tests!(
            real,
            sockets,
            $makes,
            [
                an_end_goes_with_the_last_bytes,
                a_dialled_connection_works_like_an_accepted_one,
                a_unix_socket_is_dialled,
                a_refused_dial_is_a_failure,
                a_dial_can_be_aborted,
                an_acknowledgement_is_told_of,
                a_unix_socket_has_no_acknowledgements,
                the_kernels_times_are_those_of_the_bytes,
                an_address_is_the_peers,
                the_state_of_tcp_is_told,
                a_wake_from_another_thread_ends_the_wait,
                a_deadline_is_kept_and_never_early,
                a_long_echo_arrives_whole,
                a_peer_that_fell_behind_has_little_in_the_kernel,
                a_quick_reader_waits_for_the_owner_too,
                stamps_of_short_sends_hold_up_nobody,
            ]
        );
    };
}

mod epoll {
    sockets_suite!([Make::new(Epoll::new), Make::new(Epoll::new).stamping(1)]);
}

mod ring {
    sockets_suite!(uring());
}

mod sim {
    tests!(
        refused,
        simulated,
        [SimKit::new(1, Faults { send_again: 1_000, ..Faults::NONE })],
        [a_refused_send_is_taken_back_but_for_a_frame]
    );
    whole_suite!(without_faults, [SimKit::new(1, Faults::NONE)]);
    whole_suite!(harsh, (0..20).map(|seed| SimKit::new(seed, Faults::HARSH)));
    whole_suite!(mixed, (0..40).map(SimKit::seeded));
}
