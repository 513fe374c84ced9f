"""The user token: asked for once, kept for the tab, and asked for again once it is revoked."""
from __future__ import annotations

from tests.support.browser import ESCAPE
from tests.support.page_server import TOKEN

OTHER_TOKEN = "brave-lynx"


def enter_token(page, token=TOKEN):
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")
    page.give_token(token)


def sign_in(page, server):
    server.token = TOKEN
    page.open()
    enter_token(page)
    page.wait_until_gone("#token-dialog")


def test_an_open_server_asks_for_no_token(page, server):
    page.open()
    page.wait_for_text("#model", "llama3")
    assert not page.is_shown("#token-dialog") and not page.is_shown("#sign-out")


def test_the_token_is_asked_for_once_and_kept_for_the_tab(page, server):
    sign_in(page, server)
    page.wait_for_text("#model", "llama3")
    page.driver.refresh()
    page.wait_for_text("#model", "llama3")
    assert not page.is_shown("#token-dialog")
    assert page.run("return localStorage.length") == 0
    assert page.run("return document.cookie") == ""


def test_a_new_tab_asks_again(page, server):
    sign_in(page, server)
    page.driver.switch_to.new_window("tab")
    page.open()
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")


def test_a_wrong_token_is_said_to_be_wrong(page, server):
    server.token = TOKEN
    page.open()
    enter_token(page, "wrong")
    page.wait_for_text("#token-error", "Unknown or revoked token.")
    enter_token(page, TOKEN)
    page.wait_until_gone("#token-dialog")


def test_a_token_that_cannot_be_one_is_not_sent(page, server):
    server.token = TOKEN
    page.open()
    enter_token(page, "Schlüssel")
    page.wait_for_text("#token-error", "A token has only")


def test_escape_does_not_close_the_question(page, server):
    server.token = TOKEN
    page.open()
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")
    page.press(ESCAPE)
    page.press(ESCAPE)
    assert page.is_shown("#token-dialog")
    page.run("document.querySelector('#token-dialog').close()")  # As the back button of a phone.
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question again")


def test_a_token_revoked_in_the_middle_of_an_answer_loses_nothing(page, server):
    sign_in(page, server)
    page.ask("Tell me a story.")
    task = server.next_task()
    task.start()
    task.write("Once upon ")
    page.wait_for_text(".reply", "Once upon")
    server.token = OTHER_TOKEN
    server.hang_up_on_all()
    page.wait_for_text("#token-error", "Unknown or revoked token.")
    enter_token(page, OTHER_TOKEN)
    task.write("a time.")
    task.complete()
    page.wait_for_text(".answer .status", "Completed")
    page.wait_for_text(".reply", "Once upon a time.")


def test_a_token_revoked_before_a_prompt_is_sent_does_not_lose_the_prompt(page, server):
    sign_in(page, server)
    page.wait_for_text("#model", "llama3")
    server.token = OTHER_TOKEN
    page.ask("Why?")
    enter_token(page, OTHER_TOKEN)
    server.next_task()
    assert server.submissions[0]["messages"] == [{"role": "user", "content": "Why?"}]


def test_forgetting_the_token_forgets_the_conversation_too(page, server):
    sign_in(page, server)
    page.ask("Why?")
    server.next_task().start()
    page.wait_for_text(".answer .status", "Waiting for the first words")
    page.click("#sign-out")
    page.wait_for(lambda: page.is_shown("#token-dialog"), "the question for a token")
    assert page.all(".turn") == []
    assert "Why?" not in page.run("return JSON.stringify(sessionStorage)")
