"""The line in front of the model: order, bound, leaving, and readers that stop reading."""

import threading
import time

import pytest
from demo_host.turns import QueueFull, TurnLost, Turns


def test_the_first_has_its_turn_at_once_and_the_others_in_order_of_arrival() -> None:
    turns = Turns(limit=20)
    tickets = [turns.join() for _ in range(20)]
    order: list[int] = []
    running: list[int] = []

    def work(number: int) -> None:
        tickets[number].turn.result(timeout=10)
        running.append(number)
        assert running == [number]  # nobody else is at it
        order.append(number)
        running.remove(number)
        tickets[number].leave()

    # Started in the wrong order: only the order of joining counts.
    threads = [threading.Thread(target=work, args=(number,)) for number in reversed(range(20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert order == list(range(20))
    assert turns.counts() == (0, 0)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_one_runs_and_limit_may_wait(limit: int) -> None:
    turns = Turns(limit)
    tickets = [turns.join() for _ in range(limit + 1)]
    assert turns.counts() == (1, limit)
    with pytest.raises(QueueFull, match=str(limit)):
        turns.join()
    tickets[0].leave()
    turns.join()


def test_joining_from_many_threads_never_exceeds_the_limit() -> None:
    turns = Turns(limit=5)
    results: list[bool] = []

    def join() -> None:
        try:
            turns.join()
            results.append(True)
        except QueueFull:
            results.append(False)

    threads = [threading.Thread(target=join) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == [False] * 34 + [True] * 6


def test_leaving_while_waiting_frees_the_place_and_keeps_the_order() -> None:
    turns = Turns(limit=2)
    first, second, third = turns.join(), turns.join(), turns.join()
    second.leave()
    second.leave()
    assert turns.counts() == (1, 1)
    assert not third.turn.done()
    first.leave()
    assert third.turn.done()
    assert not second.turn.done()


def test_only_the_first_may_work() -> None:
    turns = Turns(limit=1)
    first, second = turns.join(), turns.join()
    with pytest.raises(TurnLost), second.working():
        pass
    with first.working():
        pass
    first.leave()
    with second.working():
        pass


def test_a_reader_that_stops_reading_is_expelled() -> None:
    turns = Turns(limit=1)
    stalled, waiting = turns.join(), turns.join()
    closed: list[bool] = []
    stalled.on_expelled = lambda: closed.append(True)
    with stalled.working():
        time.sleep(0.03)
        assert not turns.expel_stalled(0.02)  # it computes
    assert not turns.expel_stalled(60)
    time.sleep(0.03)
    assert turns.expel_stalled(0.02)
    assert closed == [True]
    assert waiting.turn.done()
    with pytest.raises(TurnLost), stalled.working():
        pass


def test_leaving_while_working_does_no_harm() -> None:
    turns = Turns(limit=1)
    ticket = turns.join()
    with ticket.working():
        ticket.leave()
    assert turns.counts() == (0, 0)
    assert not turns.expel_stalled(0)


def test_as_many_run_as_there_are_places() -> None:
    turns = Turns(limit=1, places=2)
    first, second, third = turns.join(), turns.join(), turns.join()
    assert turns.counts() == (2, 1)
    assert (first.turn.done(), second.turn.done(), third.turn.done()) == (True, True, False)
    with pytest.raises(QueueFull):
        turns.join()
    with first.working(), second.working():
        second.leave()
        with third.working():
            assert turns.counts() == (2, 0)


def test_of_two_that_run_the_one_nobody_reads_is_expelled() -> None:
    turns = Turns(limit=1, places=2)
    working, stalled = turns.join(), turns.join()
    with working.working():
        time.sleep(0.03)
        assert turns.expel_stalled(0.02)
        assert turns.counts() == (1, 0)
    with pytest.raises(TurnLost), stalled.working():
        pass


def test_a_model_that_brings_no_token_is_noticed_and_one_that_rests_is_not() -> None:
    turns = Turns(limit=1)
    ticket = turns.join()
    assert turns.longest_silence() == 0.0
    with ticket.working():
        time.sleep(0.05)
        assert 0.05 <= turns.longest_silence() < 5
        ticket.moved_at = time.monotonic()
        assert turns.longest_silence() < 0.05
    assert turns.longest_silence() == 0.0


def test_a_closed_line_serves_those_who_are_in_it_and_lets_nobody_in() -> None:
    turns = Turns(limit=5)
    first, second = turns.join(), turns.join()
    turns.close()
    with pytest.raises(QueueFull, match="being restarted"):
        turns.join()
    first.leave()
    with second.working():
        pass
