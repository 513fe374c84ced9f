"""The page, the real Manage Server and a real LLM Server, beside a stub Ollama."""
from __future__ import annotations

import signal
import socket

import pytest

from tests.support.browser import Page
from tests.support.processes import Process, ask
from tests.support.worker_stubs import StubOllama

USER_TOKEN, WORKER_TOKEN = "sunny-otter", "iron-heron"


class Programs:
    """A Manage Server, which can be restarted, and an LLM Server."""

    def __init__(self, folder, ollama_url):
        self._environ = {
            "USER_TOKENS": f"alice:{USER_TOKEN},bob:brave-lynx",
            "WORKER_TOKENS": f"gpu-1:{WORKER_TOKEN}", "TASK_STORE": f"sqlite:{folder}/tasks.db",
        }
        # Kept from all others while the server is down.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.server = self.start_server()
        self.url = self.server.url()
        self.worker = Process("llm_server.py", environ={
            "MANAGE_SERVER_URL": self.url, "OLLAMA_HOST": ollama_url, "WORKER_TOKEN": WORKER_TOKEN,
            "WORKER_NAME": "attic"})

    def start_server(self):
        port = self._port.getsockname()[1]
        return Process("manage_server.py", "--manage-port", str(port), environ=self._environ)

    def restart_server(self, while_down):
        self.server.signal(signal.SIGKILL)
        self.server.exit_code()
        while_down()
        self.server = self.start_server()
        self.server.url()

    def close(self):
        for process in (self.worker, self.server):
            process.__exit__(None, None, None)
        self._port.close()


@pytest.fixture
def ollama():
    with StubOllama() as stub:
        yield stub


@pytest.fixture
def programs(tmp_path, ollama):
    programs = Programs(tmp_path, ollama.url)
    yield programs
    programs.close()


@pytest.fixture
def real_page(page, programs):
    """The page of the real server, with a token given."""
    real_page = Page(page.driver, programs.url).open()
    real_page.give_token(USER_TOKEN)
    real_page.wait_until_gone("#token-dialog")
    real_page.wait_for_text("#model", "llama3:latest")
    return real_page


def write(call, text, **more):
    call.write({"message": {"role": "assistant", "content": text}, "done": False, **more})


def test_a_conversation_through_all_programs(real_page, ollama):
    real_page.ask("Name a color.")
    call = ollama.next_call()
    assert call.fields["messages"] == [{"role": "user", "content": "Name a color."}]
    call.write({"message": {"role": "assistant", "content": "", "thinking": "Hmm."}, "done": False})
    real_page.wait_for_text(".thinking summary", "Thinking…")
    write(call, "Red")
    real_page.wait_for_text(".reply", "Red")
    call.write({"message": {"role": "assistant", "content": "."}, "done": True,
                "done_reason": "stop", "eval_count": 8, "eval_duration": 400_000_000})
    call.end()
    real_page.wait_for_text(".answer .status", "8 tokens · 20.0 tokens/s")
    real_page.wait_for(lambda: real_page.text(".reply") == "Red.", "the whole answer")
    real_page.ask("Another one.")
    assert [message["content"] for message in ollama.next_call().fields["messages"]] == [
        "Name a color.", "Red.", "Another one."]


def test_the_answer_goes_on_after_the_server_was_killed_in_the_middle(real_page, programs, ollama):
    real_page.ask("Tell me a story.")
    call = ollama.next_call()
    write(call, "Once upon ")
    real_page.wait_for_text(".reply", "Once upon")
    programs.restart_server(lambda: real_page.wait_for_text("#connection", "Trying again"))
    write(call, "a time.")
    call.write({"message": {"role": "assistant", "content": ""}, "done": True,
                "done_reason": "stop"})
    call.end()
    real_page.wait_for_text(".reply", "Once upon a time.")
    real_page.wait_for_text(".answer .status", "Completed")
    real_page.wait_until_gone("#connection")


def test_the_lists_show_what_happened(real_page, ollama):
    real_page.ask("Name a color.")
    call = ollama.next_call()
    real_page.wait_for_text("#task-list", "running")
    call.write({"message": {"role": "assistant", "content": "Red."}, "done": True,
                "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 1500,
                "eval_duration": 10 ** 9, "total_duration": 2 * 10 ** 9})
    call.end()
    real_page.wait_for_text("#task-list", "completed")
    assert real_page.text("#task-list .summary") == "Name a color."
    real_page.click("a[data-view=workers]")
    real_page.wait_for_text("#worker-list", "attic")
    real_page.wait_for_text("#worker-list", "llama3:latest")
    real_page.wait_for_text("#counts", "Finished\n1")
    real_page.click("a[data-view=usage]")
    real_page.wait_for_text("#usage-table", "llama3:latest")
    assert real_page.text("#usage-table tbody tr:last-child").split("\t")[1:] == [
        "1", "12", "1.5K", "2 s"]


def test_a_task_that_was_submitted_elsewhere_is_opened_and_erased(real_page, programs, ollama):
    headers = {"Authorization": f"Bearer {USER_TOKEN}"}
    ask(programs.url, "POST", "/submit", {"prompt": "Submitted with curl"}, headers=headers)
    ollama.next_call().finish("An answer.")
    ask(programs.url, "GET", "/result/1?wait=30", headers=headers)
    real_page.driver.refresh()
    real_page.wait_for_text("#task-list", "completed")
    real_page.click("[data-task='1'] .open")
    real_page.wait_for_text(".reply", "An answer.")
    real_page.click("[data-task='1'] > button:last-child")
    real_page.click("#confirm-yes")
    real_page.wait_for_text("#tasks", "You have no tasks yet.")
    assert ask(programs.url, "GET", "/result/1", headers=headers).status == 404


def test_another_user_sees_none_of_it(real_page, ollama):
    real_page.ask("My secret.")
    ollama.next_call()
    real_page.wait_for_text("#task-list", "My secret.")
    real_page.click("#sign-out")
    real_page.wait_for(lambda: real_page.is_shown("#token-dialog"), "the question for a token")
    real_page.give_token("brave-lynx")
    real_page.wait_for_text("#tasks", "You have no tasks yet.")
    real_page.click("a[data-view=workers]")
    real_page.wait_for_text("#counts", "Running\n0")
    assert "secret" not in real_page.text("body")


def test_stop_stops_the_model(real_page, ollama):
    real_page.ask("Count.")
    call = ollama.next_call()
    write(call, "1, 2, 3")
    real_page.wait_for_text(".reply", "1, 2, 3")
    real_page.click("#stop")
    real_page.wait_for_text(".answer .status", "Stopped")
    assert call.disconnected.wait(30)
