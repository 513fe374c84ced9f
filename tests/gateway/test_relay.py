"""Requests to a model become tasks, and their answers come back byte for byte."""
from __future__ import annotations

CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "Why?"}]}
SSE = "text/event-stream"
# Nobody would write JSON like this; it must arrive like this.
BODY = (b'{ "messages":[{"role":"user","content":"\\u0057hy? \xc3\xa9"}],\n'
        b'"model" :"Llama3:latest" }')
ANSWER = b'{"id":"chatcmpl-1", "choices": [ ] ,"x":"\xc3\xa9\\u00e9"}\n\n'


def test_an_answer_that_is_not_streamed_comes_back_byte_for_byte(server):
    worker = server.worker()
    request = server.post("/v1/chat/completions", BODY)
    claimed = worker.claimed()
    assert claimed.body == BODY
    assert claimed.relay == {"path": "/v1/chat/completions", "headers": {}, "stream": False}
    worker.answer(claimed, ANSWER, content_type="application/json")
    assert request.status == 200
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Length"] == str(len(ANSWER))
    assert request.headers["X-Task-Id"] == str(claimed.task_id)
    assert request.read() == ANSWER


def test_a_stream_comes_as_it_is_written(server):
    worker = server.worker()
    request = server.post("/v1/chat/completions", {**CHAT, "stream": True})
    delivery = worker.begin(worker.claimed(), content_type=SSE)
    pieces = [b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(3)]
    for piece in pieces:
        delivery.send(piece)
        assert request.read(len(piece)) == piece
    assert request.status == 200
    assert request.headers["Content-Type"] == SSE
    assert delivery.send(b"data: [DONE]\n\n", is_done=True)["state"] == "completed"
    assert request.read() == b"data: [DONE]\n\n"
