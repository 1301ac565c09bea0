"""What a pipeline shows while it runs, by a clock that the test sets."""

import pytest

from components.orchestration import progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_pipe_gets_plain_lines_with_the_time_left(clock, capsys):
    with progress.Board(["first", "second"]) as board:
        board.start("first")
        clock.now += 10
        board.progress("first", 5, 50, "steps")  # loading took ten seconds, which is no step's time
        clock.now += 3
        board.progress("first", 8, 50, "steps")  # too soon for another line
        clock.now += 12
        board.progress("first", 20, 50, "steps")
        clock.now += 30
        board.progress("first", 50, 50, "steps")
        board.end("first", "done", 55.0)
    assert capsys.readouterr().err.splitlines() == [
        "[0:00] first: running",
        "[0:10] first: 5/50 steps",
        "[0:25] first: 20/50 steps, 0:30 left",  # 15 steps in 15 s, 30 are left
        "[0:55] first: 50/50 steps, 0:00 left",
        "[0:55] first: done in 0:55 (1 of 2 steps)",
    ]


def test_another_unit_starts_its_own_count(clock, capsys):
    board = progress.Board(["only"])
    board.start("only")
    board.progress("only", 100, 100, "rows")
    clock.now += 100
    board.progress("only", 1, 11, "steps")
    clock.now += 20
    board.progress("only", 2, 11, "steps")
    assert capsys.readouterr().err.splitlines()[-1] == "[2:00] only: 2/11 steps, 3:00 left"


def test_a_terminal_gets_a_table_of_all_steps(clock):
    from rich.console import Console

    board = progress.Board(["first", "second", "third"])
    board.start("first")
    board.end("first", "cached", 0.0)
    board.start("second")
    board.progress("second", 10, 40, "prompts")
    clock.now += 65
    board.progress("second", 20, 40, "prompts")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board._table())
    title, _, _, *rows = console.export_text().splitlines()
    assert title.startswith("1:05 since the start")
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows if "│" in row]
    assert [cell[:3] for cell in cells] == [
        ["first", "cached", "0:00"],
        ["second", "running", "1:05"],
        ["third", "waiting", ""],
    ]
    assert cells[1][4:] == ["20/40 prompts", "2:10"]
