"""Text of models, workers and other users is shown as text, whatever it is."""
from __future__ import annotations

import re

import pytest

from manage.routes.page import FILES
from tests.support.browser import PHONE

MARKUP = (
    "<script>document.title = 'pwned'</script>"
    "<img src=x onerror=\"document.title = 'pwned'\">"
    "<svg onload=\"document.title = 'pwned'\"><a href=\"javascript:alert(1)\">click</a>"
    "<style>body { display: none }</style><iframe srcdoc=\"<script>parent.document.title = 'pwned'"
    "</script>\"></iframe>&lt;b&gt;</textarea></dialog>"
)

ARABIC = "\u0645\u0631\u062d\u0628\u0627"


def answer(page, server, *pieces, prompt="Why?", end=None):
    """Ask, have the model write these pieces, and return the answer's element, in which all of
    them are shown: they end with `end`, or else with their last line that is no fence."""
    page.open().ask(prompt)
    task = server.next_task()
    task.start()
    for piece in pieces:
        task.write(piece)
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    lines = [line.rstrip() for line in "".join(pieces).split("\n") if line.strip("` ")]
    page.wait_for(lambda: page.run("return document.querySelector('.reply').textContent.trimEnd()"
                                   ".endsWith(arguments[0])", end or lines[-1]), "all of it")
    return page.find(".reply")


def length_of_reply(page):
    return page.run("return document.querySelector('.reply').textContent.length")


def has_no_sideways_scroll(page):
    return page.run(
        "return [document.scrollingElement, document.querySelector('#conversation')]"
        ".every((e) => e.scrollWidth <= e.clientWidth)")


@pytest.mark.parametrize("pieces", [[MARKUP], list(MARKUP), ["```html\n", MARKUP, "\n```\n"]],
                         ids=["whole", "by character", "in code"])
def test_markup_is_shown_and_not_obeyed(page, server, pieces):
    reply = answer(page, server, *pieces)
    assert reply.text == MARKUP
    assert page.run("return document.querySelectorAll('.reply :not(p, pre, code)').length") == 0
    assert page.driver.title == "llm-tasks"


def test_markup_in_everything_else_is_shown_too(page, server):
    server.add_task(MARKUP, state="failed", error=MARKUP, model=MARKUP, waiting_for=MARKUP)
    server.models = [{"name": MARKUP, "details": {"parameter_size": MARKUP}}]
    server.loaded = [{"name": MARKUP, "details": {"quantization_level": MARKUP}}]
    server.workers = [{"worker": MARKUP, "connected": True, "models": [MARKUP]}]
    server.usage = [{"day": "2026-11-28", "model": MARKUP, "tasks": 1, "prompt_tokens": 1,
                     "answer_tokens": 1, "gpu_seconds": 1.0}]
    page.open()
    page.wait_for_text("#task-list", "<script>")
    page.wait_for_text("#model", "<script>")
    page.click("a[data-view=workers]")
    page.wait_for_text("#worker-list", "<script>")
    page.click("a[data-view=usage]")
    page.wait_for_text("#usage-table", "<script>")
    page.click("[data-task='1'] > button:last-child")
    page.wait_for_text("#confirm-dialog", "<script>")
    assert page.driver.title == "llm-tasks"


def test_markup_in_prompts_thinking_and_errors_is_shown(page, server):
    page.open().ask(MARKUP)
    task = server.next_task()
    task.start()
    task.think(MARKUP)
    task.fail(MARKUP)
    page.wait_for_text(".answer .status", "<script>")
    page.click(".thinking summary")
    page.wait_for_text(".thoughts", "<script>")
    assert page.text(".question .text") == MARKUP
    assert page.driver.title == "llm-tasks"


def test_the_browser_would_refuse_a_script_that_got_into_the_page(page, server):
    page.open()
    page.run("const s = document.createElement('script'); s.textContent = 'document.title = 1';"
             "document.body.append(s)")
    page.run("document.body.setAttribute('onclick', 'document.title = 2'); document.body.click()")
    assert page.driver.title == "llm-tasks"
    assert all("Content Security Policy" in complaint for complaint in page.complaints())


def test_the_page_makes_no_markup_from_text():
    script = FILES["page.js"].decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|"
                         r"new Function|srcdoc|createContextualFragment|setHTML", script)
    html = FILES["index.html"].decode()
    assert not re.search(r"<style|\bstyle=|\bon\w+=|<script(?! type=\"module\" src=\"page/)", html)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html + script
                         + FILES["page.css"].decode()), "something comes from elsewhere"


@pytest.mark.parametrize("text", ["x" * 20_000, "```\n" + "x" * 20_000 + "\n```", "ﷺ" * 2_000,
                                  "W" * 2_000 + " " + "0" * 2_000],
                         ids=["a word", "code", "wide characters", "two words"])
def test_a_huge_line_wraps_on_a_phone(page, server, text):
    page.show_as(PHONE)
    reply = answer(page, server, text)
    assert has_no_sideways_scroll(page)
    assert reply.size["width"] <= 360


def test_huge_names_wrap_on_a_phone(page, server):
    name = "very-long-name" * 40
    server.add_task(name, state="failed", error=name, model=name)
    server.models = [{"name": name, "details": {}}]
    server.loaded = [{"name": name, "details": {}}]
    server.workers = [{"worker": name, "connected": True, "models": [name]}]
    server.usage = [{"day": "2026-11-28", "model": name, "tasks": 123456, "prompt_tokens": 10 ** 9,
                     "answer_tokens": 10 ** 9, "gpu_seconds": 10.0 ** 6}]
    page.show_as(PHONE)
    page.open()
    for view in ("tasks", "workers", "usage", "chat"):
        page.click(f"a[data-view={view}]")
        page.wait_for_text("main, #tasks" if view != "chat" else "#model", "")
        page.wait_for(lambda: page.is_shown("#composer") or name[:20] in page.text("body"), view)
        assert page.run("return [...document.querySelectorAll('body, .view, .page')].every((e) =>"
                        " e.scrollWidth <= e.clientWidth || !e.checkVisibility())"), view


def test_right_to_left_text_runs_from_the_right(page, server):
    answer(page, server, f"שלום עולם\n\nHello world\n\n{ARABIC} (abc)", prompt="שלום?")
    assert page.run(
        "return [...document.querySelectorAll('.question p, .reply p')].map((p) =>"
        " getComputedStyle(p).direction)") == ["rtl", "rtl", "ltr", "rtl"]


def test_control_characters_are_shown_as_symbols(page, server):
    reply = answer(page, server, "a\x00b\x07c\x1b[31md\x7fe\r\nf\tg")
    assert reply.text.replace("\t", " ") == "a␀b␇c␛[31md␡e\nf g"


def test_directional_overrides_end_with_their_paragraph(page, server):
    answer(page, server, "evil \u202e gnp.exe\n\nnext paragraph")
    where = page.run("return [...document.querySelectorAll('.reply p')].map((p) =>"
                     " getComputedStyle(p).unicodeBidi)")
    assert where == ["plaintext", "plaintext"]


def test_paragraphs_and_code_are_told_apart(page, server):
    text = "Try:\n\n```python\nprint('hi')\n\nprint('``')\n```\nThat is *all*.\nNow.\n"
    for pieces in ([text], list(text)):
        answer(page, server, *pieces)
        shown = page.run("return [...document.querySelector('.reply').children].map((e) =>"
                         " [e.tagName, e.textContent, e.getAttribute('aria-label')])")
        assert shown == [
            ["P", "Try:\n", None], ["PRE", "print('hi')\n\nprint('``')\n", "Code: python"],
            ["P", "That is *all*.\nNow.\n", None]]
        page.click("#new-conversation")


def test_a_fence_that_never_closes_and_one_at_the_end_are_whole(page, server):
    assert answer(page, server, "```\nx = 1\n``", end="``").text == "x = 1\n``"
    page.click("#new-conversation")
    assert answer(page, server, "So:\n```\nx = 1\n```").text == "So:\nx = 1"


@pytest.mark.parametrize("line", ["word " * 20 + "\n", "word " * 19 + "word\n\n", "x" * 100],
                         ids=["lines", "paragraphs", "one line"])
def test_an_answer_of_a_megabyte_does_not_freeze_the_page(page, server, line):
    page.open().ask("Write a book.")
    task = server.next_task()
    task.start()
    page.run("window.most = 0; let length = 0; const reply = document.querySelector('.reply');"
             "new MutationObserver(() => { const now = reply.textContent.length;"
             " most = Math.max(most, now - length); length = now; })"
             ".observe(reply, {subtree: true, childList: true, characterData: true})")
    for _ in range(100):
        task.write(line * 100)
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.wait_for(lambda: length_of_reply(page) > 970_000, "all of it")
    assert page.run("return window.most") <= 50_000, "more at once than a frame has time for"


def test_the_text_of_a_megabyte_is_whole(page, server):
    text = "".join(f"{number} 😀 line without an end " for number in range(40_000))
    answer(page, server, *[text[at:at + 9_999] for at in range(0, len(text), 9_999)])
    assert page.run("return document.querySelector('.reply').textContent") == text
