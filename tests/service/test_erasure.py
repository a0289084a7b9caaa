"""A customer who is deleted over HTTP is in the learner's files no more, and nothing of them comes in late."""

from contextlib import closing
from typing import Any

import httpx

from engine.journal.erase import digest
from engine.journal.records import ExposureRecord
from engine.learn.erase import without_erased
from engine.learn.intake import Stamped
from engine.learn.pending import WAITING, Board, Pending
from engine.learn.state import State, path_of


def test_a_delete_reaches_the_files_of_every_learner(server: Any) -> None:
    event = {"type": "track", "message_id": "gone-1", "user_id": "gone", "event": "click"}
    assert server.post("/v1/events", {"batch": [event]}).json()["statuses"][0]["status"] == "accepted"
    states = [State(path_of(server.data, owned)) for owned in (None, [0, 1])]
    for state in states:
        with state.transaction():
            board = Board(state.db)
            for who in ("gone", "stays"):
                board.add(Pending(f"d-{who}", "hero", "hero", who, 0, "a", 0.5, b"", 1.0, WAITING, 9e9))
            board.write()
    answer = httpx.delete(f"{server.base}/v1/profiles/gone", timeout=30)
    assert answer.status_code == 200, answer.text
    for state in states:
        with closing(state):
            assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]
            assert state.db.execute("SELECT count(*) FROM erased WHERE digest = ?", [digest("gone")]).fetchone() == (1,)
            late = [Stamped(1.0, 0, ExposureRecord("d-late", 1.0, who, ["hero"])) for who in ("gone", "stays")]
            assert without_erased(state.db, late) == late[1:]
