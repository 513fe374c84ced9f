"""Pictures of the page, to be looked at: SCREENSHOTS=folder pytest -k screenshots tests/page"""
from __future__ import annotations

from pathlib import Path

from tests.support.browser import PHONE
from tests.support.page_server import TOKEN, ago

WIDE = (1100, 720)
ANSWER = """The sky is blue because of Rayleigh scattering: the molecules of the air scatter short \
wavelengths far more than long ones.

The strength of it grows with the fourth power of the frequency:

```python
def scattering(wavelength_nm):
    return (550 / wavelength_nm) ** 4

print(scattering(450))  # blue: 2.2
print(scattering(650))  # red: 0.5
```

So blue light reaches your eyes from all over the sky, and"""


def fill(server):
    server.add_task("Summarize the minutes of the last three meetings.", state="completed",
                    started_at=ago(7300), finished_at=ago(7240))
    server.add_task("Translate the manual into French, chapter by chapter.", state="failed",
                    error="model requires more system memory (22.4 GiB)", finished_at=ago(3000))
    server.add_task("Write a haiku about queues.", state="completed", model="qwen3:4b",
                    started_at=ago(1500), finished_at=ago(1496))


def write_answer(page, server):
    page.ask("Why is the sky blue?")
    task = server.next_task()
    task.start()
    task.think("The user asks about the color of the sky. That is Rayleigh scattering.")
    task.write(ANSWER[:10])
    page.wait_for_text(".answer .status", "Writing")
    page.run("const now = performance.now.bind(performance); performance.now = () => now() + 6000")
    task.write(ANSWER[10:])
    page.wait_for_text(".reply", "all over the sky")
    page.wait_for_text(".answer .status", "tokens/s")
    page.wait_for_text("#task-list", "running")
    return task


def queue_many(server):
    for number in range(2, 12):
        server.add_task(f"Describe picture {number} of the exhibition in two sentences.",
                        queue_position=number, eta_seconds=20.0 * number, submitted_at=ago(30))


def picture_light_and_dark(page, size, picture):
    is_dark = "return matchMedia('(prefers-color-scheme: dark)').matches"
    for scheme in ("light", "dark"):
        page.show_as(size, prefers_color_scheme=scheme)
        page.wait_for(lambda wanted=scheme == "dark": page.run(is_dark) == wanted, scheme)
        page.screenshot(Path(f"{picture}-{scheme}.png"))


def test_the_empty_page(page, server, screenshots):
    page.show_as(WIDE)
    page.open().wait_for_text("#model", "llama3")
    page.wait_for_text("#tasks", "no tasks yet")
    picture_light_and_dark(page, WIDE, screenshots / "empty")


def test_an_answer_that_is_being_written(page, server, screenshots):
    fill(server)
    page.show_as(WIDE)
    page.open()
    write_answer(page, server)
    picture_light_and_dark(page, WIDE, screenshots / "streaming")


def test_a_full_queue(page, server, screenshots):
    fill(server)
    page.show_as(WIDE)
    page.open().ask("Describe picture 1 of the exhibition in two sentences.")
    task = server.next_task()
    task.fields["eta_seconds"] = 40.0
    task.wait_in_queue(1, "a worker that has qwen3:4b")
    queue_many(server)
    page.wait_for_text("#task-list", "picture 11")
    page.wait_for_text(".answer .status", "left")
    page.screenshot(screenshots / "queue.png")


def test_the_workers_and_the_usage(page, server, screenshots):
    fill(server)
    queue_many(server)
    server.workers.append({"worker": "attic", "connected": True, "models": ["llama3:latest"]})
    for day in range(9, 0, -1):
        server.usage.append({
            "day": f"2026-11-{28 - day}", "model": "llama3:latest", "tasks": 3 + day * 7 % 11,
            "prompt_tokens": 4000 + 9000 * (day * 7 % 5), "answer_tokens": 12000 + 500 * day,
            "gpu_seconds": 600.0 + 100 * day})
    server.usage.append({**server.usage[-1], "model": "qwen3:4b", "tasks": 2})
    for size, name in ((WIDE, ""), (PHONE, "-phone")):
        page.show_as(size)
        page.open("/#workers").wait_for_text("#worker-list", "attic")
        page.screenshot(screenshots / f"workers{name}.png")
        page.click("a[data-view=usage]")
        page.wait_for_text("#usage-table", "qwen3:4b")
        page.screenshot(screenshots / f"usage{name}.png")


def test_a_phone(page, server, screenshots):
    fill(server)
    page.show_as(PHONE)
    page.open()
    write_answer(page, server)
    picture_light_and_dark(page, PHONE, screenshots / "phone")
    page.click("a[data-view=tasks]")
    picture_light_and_dark(page, PHONE, screenshots / "phone-tasks")


def test_a_lost_connection_and_the_questions(page, server, screenshots):
    fill(server)
    page.show_as(WIDE)
    page.open()
    write_answer(page, server)
    page.click("[data-task='1'] > button:last-child")
    page.wait_for_text("#confirm-dialog", "Erase")
    page.screenshot(screenshots / "erase.png")
    page.click("#confirm-dialog button")
    with server.changed:
        server.is_down = True
        server.changed.notify_all()
    page.wait_for_text("#connection", "Trying again")
    page.screenshot(screenshots / "lost.png")
    server.is_down = False
    server.token = TOKEN
    page.try_now()
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")
    page.screenshot(screenshots / "token.png")
