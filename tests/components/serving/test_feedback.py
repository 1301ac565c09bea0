"""Feedback: a row in a real LanceDB table that a later run can train on."""

import asyncio

from components.data.store import read
from components.serving.feedback import RecentRequests, Served


def post(client, path, body):
    async def send():
        return await client.post(path, json=body)

    return asyncio.run(send())


def test_a_rated_answer_becomes_a_row_with_the_prompt_that_the_engine_read(server, plan):
    client, _, _ = server()
    ask = [{"role": "user", "content": "What does list.sort do?"}]
    answer = post(client, "/v1/chat/completions", {"model": "rag", "messages": ask, "temperature": 0.3}).json()
    given = {"request_id": answer["id"], "rating": "down", "preferred": "It sorts in place [1].", "comment": "terse"}
    reply = post(client, "/v1/feedback", given)
    assert reply.status_code == 200 and reply.json()["object"] == "feedback"
    (row,) = read(f"{plan.feedback_uri}#feedback")
    assert row["feedback_id"] == reply.json()["id"] and row["request_id"] == answer["id"]
    assert (row["model"], row["lineage_id"]) == ("rag", "rag" * 8)
    assert row["messages"] == ask and row["prompt"][-1]["content"].startswith("Passages:\n[1] list.sort")
    assert row["answer"] == answer["choices"][0]["message"]["content"]
    assert (row["rating"], row["preferred"], row["comment"]) == ("down", "It sorts in place [1].", "terse")
    assert row["passage_ids"] == ["p1", "p2"] and '"temperature": 0.3' in row["sampling"]


def test_feedback_on_a_forgotten_request_carries_its_own_messages(server, plan):
    client, _, _ = server()
    said = {"role": "user", "content": "q"}
    given = {"messages": [{**said, "name": "ada"}], "answer": "a", "rating": "up"}
    assert post(client, "/v1/feedback", given).status_code == 200
    (row,) = read(f"{plan.feedback_uri}#feedback")
    assert (row["answer"], row["prompt"], row["lineage_id"]) == ("a", [said], None)


def test_feedback_that_cannot_be_used_is_refused_and_nothing_is_written(server, tmp_path):
    client, _, _ = server()
    answer = post(
        client, "/v1/chat/completions", {"model": "plain", "messages": [{"role": "user", "content": "q"}]}
    ).json()
    refused = [
        ({"request_id": "chatcmpl-unknown", "rating": "up"}, 404, "request_not_found"),
        ({"request_id": answer["id"]}, 400, "invalid_value"),
        ({"request_id": answer["id"], "rating": "sideways"}, 400, "invalid_value"),
        ({"request_id": answer["id"], "rating": "up", "choice": 4}, 400, "invalid_value"),
        ({"rating": "up"}, 400, "invalid_value"),
        ({"request_id": answer["id"], "ratings": "up"}, 400, "invalid_value"),
        ({"messages": [{"content": "q"}], "answer": "a", "rating": "up"}, 400, "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}], "answer": "a", "rating": "up"}, 400, "invalid_value"),
    ]
    for body, status, code in refused:
        reply = post(client, "/v1/feedback", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert not (tmp_path / "lancedb").exists()


def test_the_oldest_request_is_forgotten_first():
    recent = RecentRequests(limit=2)
    for name in "abc":
        recent.add(Served(name, "m", "l", [], [], [""]))
    assert recent.get("a") is None and recent.get("b") is not None and recent.get("c") is not None
