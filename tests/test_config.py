"""Settings: where they come from, which values are valid, and the message for an invalid one."""
from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
from typing import Any, Dict, Sequence

import pytest

import config
from config import LLM, MANAGE, TEST, SettingError, Settings
from tests.support import forked

PROGRAMS = (MANAGE, LLM, TEST)


def load(program: str, argv: Sequence[str], environ: Dict[str, str]) -> Settings:
    return config.load(config.make_parser(program, "A program."), argv, environ)[0]


def run(program: str, *argv: str, **environ: str) -> Any:
    """Run the script in a process of its own, with only these settings in its environment."""
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    inherited = {key: value for key, value in os.environ.items() if key not in names}
    with forked.start(program, *argv, env={**inherited, **environ}, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE) as process:
        output, errors = process.communicate()
    return process.returncode, output.decode(), errors.decode()


def test_a_setting_that_is_not_given_has_its_default() -> None:
    assert load(MANAGE, [], {}) == Settings()
    assert Settings().manage_port == 5000 and Settings().default_model == "llama3"


def test_the_environment_overrides_the_default() -> None:
    assert load(MANAGE, [], {"MANAGE_PORT": "80"}).manage_port == 80


def test_a_flag_overrides_the_environment() -> None:
    flags = ["--manage-port", "81", "--default-model=qwen"]
    settings = load(MANAGE, flags, {"MANAGE_PORT": "80", "DEFAULT_MODEL": "mistral"})
    assert (settings.manage_port, settings.default_model) == (81, "qwen")


def test_a_flag_overrides_even_an_invalid_value_in_the_environment() -> None:
    assert load(MANAGE, ["--manage-port", "81"], {"MANAGE_PORT": "abc"}).manage_port == 81


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(MANAGE, [], {"MANAGE_PORT": ""}) == Settings()


def test_the_settings_of_other_programs_are_ignored() -> None:
    environ = {"MANAGE_PORT": "abc", "MAX_ATTEMPTS": "9", "WORKER_CONCURRENCY": "4"}
    settings = Settings.from_environ(LLM, environ)
    assert settings == dataclasses.replace(Settings(), worker_concurrency=4)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().manage_port = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_each_setting_names_its_programs_and_its_default_is_allowed(field: Any) -> None:
    assert field.metadata["programs"] and field.metadata["meaning"]
    for program in field.metadata["programs"]:
        text = f"{field.default:f}" if isinstance(field.default, float) else str(field.default)
        settings = Settings.from_environ(program, {field.name.upper(): text})
        assert getattr(settings, field.name) == field.default


@pytest.mark.parametrize("field", [
    field for field in dataclasses.fields(Settings) if field.type in ("int", "float")
], ids=lambda field: field.name)
def test_each_number_has_a_limit_that_its_message_names(field: Any) -> None:
    limit = field.metadata["at_most"]
    program, name = field.metadata["programs"][0], field.name.upper()
    assert getattr(Settings.from_environ(program, {name: f"{limit:.0f}"}), field.name) == limit
    low = f"{field.metadata['at_least']:.0f}"
    for text in (f"{limit + 1:.0f}", "9" * 400):
        with pytest.raises(SettingError, match=f"^{name} must be from {low} to {limit:.0f}, not "):
            Settings.from_environ(program, {name: text})


@pytest.mark.parametrize(
    ("program", "name", "value"),
    [
        *((MANAGE, "MANAGE_PORT", bad) for bad in ("abc", "-1", "65536", "1.5", "1e3", "0x50")),
        (MANAGE, "MANAGE_HOST", "a\nb"),
        (MANAGE, "MANAGE_HOST", "x" * 201),
        (MANAGE, "MANAGE_THREADS", "3"),
        (MANAGE, "MANAGE_THREADS", "100000"),
        (MANAGE, "MAX_STORE_BYTES", "1" + "0" * 20),
        (MANAGE, "MAX_ATTEMPTS", "1001"),
        (MANAGE, "TASK_TIMEOUT_SECONDS", "1e12"),
        (LLM, "OLLAMA_TIMEOUT_SECONDS", "86401"),
        (MANAGE, "DEFAULT_MODEL", "\t"),
        (MANAGE, "LEASE_SECONDS", "0.5"),
        *((MANAGE, "MAX_WAIT_SECONDS", bad) for bad in ("nan", "inf", "-1", "3601", "long")),
        (MANAGE, "MAX_ATTEMPTS", "0"),
        (MANAGE, "MAX_QUEUED_TASKS", "0"),
        (MANAGE, "MAX_REQUEST_BYTES", "1023"),
        (MANAGE, "MAX_STORE_BYTES", "512M"),
        (MANAGE, "RESULT_TTL_SECONDS", "infinity"),
        *((LLM, "MANAGE_SERVER_URL", bad) for bad in (
            "localhost:5000", "ftp://host", "http://", "http://:80", "http://host:abc",
            "http://host:70000", "http://host:0", "http://[::1", "http://host/?a=b",
            "http://host/#a",
        )),
        (LLM, "OLLAMA_TIMEOUT_SECONDS", "0"),
        (LLM, "WORKER_NAME", "a\x00b"),
        (LLM, "WORKER_CONCURRENCY", "1001"),
        (LLM, "WORKER_CONCURRENCY", "two"),
        (LLM, "LOG_LEVEL", "loud"),
        (TEST, "MANAGE_SERVER_URL", "nowhere"),
    ],
)
def test_an_invalid_value_is_one_sentence_naming_the_setting_and_the_value(
    program: str, name: str, value: str
) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environ(program, {name: value})
    message = str(caught.value)
    assert message.startswith(name + " ") and message.endswith(f"not {value!r}.")
    assert "\n" not in message


@pytest.mark.parametrize(("program", "name"), [(LLM, "WORKER_TOKEN"), (TEST, "USER_TOKEN")])
@pytest.mark.parametrize(
    "text",
    ["s3cret\n", "s3cret\r\n", " s3cret\t", "\ufeffs3cret", "\u200bs3cret\u2060\u00a0"],
)
def test_a_token_is_read_without_what_surrounds_it(program: str, name: str, text: str) -> None:
    assert getattr(Settings.from_environ(program, {name: text}), name.lower()) == "s3cret"


@pytest.mark.parametrize(("program", "name"), [(LLM, "WORKER_TOKEN"), (TEST, "USER_TOKEN")])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3\ncret", "its character 3 is U+000A"), ("s3\u200bcret", "its character 3 is U+200B"),
        ("s3crét", "its character 5 is U+00E9"), ("s3cret\udce9", "its character 7 is U+DCE9"),
        (" \n\ufeff", "contains only blanks and invisible characters"),
    ],
)
def test_a_token_that_cannot_be_sent_is_a_line_that_names_the_setting_and_not_the_token(
    program: str, name: str, text: str, reason: str
) -> None:
    with pytest.raises(SettingError, match=f"^{name} .*{re.escape(reason)}") as caught:
        Settings.from_environ(program, {name: text})
    assert "s3" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MANAGE_PORT", "\ufeff5000\r\n", 5000), ("INSECURE", "yes\n", True),
        ("LEASE_SECONDS", "\u200b30 ", 30.0), ("DEFAULT_MODEL", "llama3\r", "llama3"),
        ("USER_TOKENS", "\ufeffa:b,\n c:d\n", "a:b,\n c:d"),
        ("USER_TOKENS", '"a:b"\n', "a:b"), ("MANAGE_PORT", "'80'", 80),
        ("INSECURE", '" yes "', True),
        ("USER_TOKENS", 'a:"b', 'a:"b'),
    ],
)
def test_every_setting_is_read_without_what_surrounds_it(
    name: str, text: str, value: object
) -> None:
    assert getattr(Settings.from_environ(MANAGE, {name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("MANAGE_SERVER_URL", "http://ho\u200bst"), ("MANAGE_SERVER_URL", "http://host/a\u2060b"),
     ("OLLAMA_HOST", "gp\u200bu:1"), ("MANAGE_SERVER_URL", "http://ho\nst"),
     ("MANAGE_SERVER_URL", "http://host/a b")],
)
def test_an_invisible_character_inside_a_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=f"^{name} must ") as caught:
        Settings.from_environ(LLM, {name: text})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("program", "name", "text"),
    [(LLM, "MANAGE_SERVER_URL", "ftp://user:pa@/ss@host"), (LLM, "OLLAMA_HOST", "u:pass@gpu:x"),
     (TEST, "MANAGE_SERVER_URL", "user:pass@host"), (MANAGE, "USER_TOKENS", "a:pass\u200bb")],
)
def test_a_bad_value_is_shown_without_its_password(program: str, name: str, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environ(program, {name: text})
    assert "pa" not in str(caught.value)


def test_the_message_for_an_invalid_flag_names_the_flag(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        load(MANAGE, ["--max-attempts", "none"], {"MAX_ATTEMPTS": "3"})
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert message == "manage_server.py: --max-attempts must be a whole number, not 'none'.\n"


@pytest.mark.parametrize(
    ("program", "name", "value"),
    [
        (MANAGE, "MANAGE_PORT", "abc"),
        (LLM, "WORKER_CONCURRENCY", "0"),
        (LLM, "OLLAMA_HOST", "localhost:abc"),
        (TEST, "MANAGE_SERVER_URL", "localhost"),
    ],
)
def test_a_script_with_an_invalid_variable_prints_one_line_and_exits_with_2(
    program: str, name: str, value: str
) -> None:
    status, output, errors = run(program, **{name: value})
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"{program}: {name} ") and value in errors


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_script_with_an_unknown_flag_prints_one_line_and_exits_with_2(
    program: str,
) -> None:
    status, output, errors = run(program, "--nonsense")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"{program}: ") and "--help" in errors


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_lists_exactly_the_settings_of_the_program(program: str) -> None:
    status, output, errors = run(program, "--help", COLUMNS="200")
    assert (status, errors) == (0, "")
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        is_its_own = program in field.metadata["programs"]
        is_secret = field.metadata["is_secret"]
        assert (f" {flag} " in output) is (is_its_own and not is_secret)
        text = field.name.upper() if is_secret else field.metadata["meaning"]
        assert not is_its_own or text in output


@pytest.mark.parametrize("text", ["debug", "Info", "WARNING"])
def test_the_log_level_is_case_insensitive(text: str) -> None:
    assert Settings.from_environ(LLM, {"LOG_LEVEL": text}).log_level == text.upper()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host", "http://host"),
        ("https://host/", "https://host"),
        ("https://host:8443/tasks/", "https://host:8443/tasks"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://user:word@host", "http://user:word@host"),
        (" http://host:5000\r", "http://host:5000"),
    ],
)
def test_the_manage_server_url_loses_its_trailing_slash(text: str, url: str) -> None:
    assert Settings.from_environ(LLM, {"MANAGE_SERVER_URL": text}).manage_server_url == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu", "http://gpu:11434"),
        ("gpu:8080", "http://gpu:8080"),
        ("gpu:", "http://gpu:11434"),
        ("gpu/ollama/", "http://gpu:11434/ollama"),
        (":8080", "http://127.0.0.1:8080"),
        ("10.0.0.2", "http://10.0.0.2:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("fd00::2", "http://[fd00::2]:11434"),
        ("::", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu", "https://gpu:443"),
        ("http://gpu:8080/", "http://gpu:8080"),
        ("https://gpu.example.org/a/b/", "https://gpu.example.org:443/a/b"),
        ("http://[::]:8080/a", "http://[::1]:8080/a"),
        ("https://user:word@gpu:8080", "https://user:word@gpu:8080"),
        (' "gpu:8080" ', "http://gpu:8080"),
        ("'0.0.0.0'", "http://127.0.0.1:11434"),
    ],
)
def test_every_form_of_ollama_host_becomes_a_url(text: str, url: str) -> None:
    assert Settings.from_environ(LLM, {"OLLAMA_HOST": text}).ollama_host == url


@pytest.mark.parametrize(
    "text",
    ["gpu:abc", "gpu:0", "gpu:65536", "gpu:-1", "http://gpu:x", "ftp://gpu", "a:b:c",
     "a b", "[::1]x:80", "gpu:²"],
)
def test_an_invalid_ollama_host_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^OLLAMA_HOST .*\.$"):
        Settings.from_environ(LLM, {"OLLAMA_HOST": text})


def test_the_default_is_ollamas_own_address() -> None:
    assert config.ollama_url("127.0.0.1") == Settings().ollama_host


def test_a_program_may_add_its_own_arguments() -> None:
    parser = config.make_parser(TEST, "A program.")
    parser.add_argument("prompt")
    settings, arguments = config.load(parser, ["Hi"], {})
    assert isinstance(arguments, argparse.Namespace)
    assert (arguments.prompt, settings) == ("Hi", Settings())


MALFORMED = ["{}s3#cret@host", "{}s3/cret@host", "{}s3?cret@host", "{}1#s3cret@host",
             "{}1/s3cret@host:80", "{}1?s3cret@host", "{}s3\u2100cret#@host", "{}s3[cret#@host"]
HTTP_MALFORMED = [*MALFORMED, "{}s3 cret@host", "{}s3\\cret@host", "{}s3\tcret@host"]


def values(patterns: Sequence[str], *starts: str) -> Sequence[str]:
    return [pattern.format(start) for pattern in patterns for start in starts]


@pytest.mark.parametrize(("program", "name", "text"), [
    *((TEST, "MANAGE_SERVER_URL", text) for text in values(
        HTTP_MALFORMED, "http://bob:", "https://:", "http:/bob:", "bob:", "ftp://bob:")),
    *((LLM, "OLLAMA_HOST", text) for text in values(
        HTTP_MALFORMED, "http://bob:", "bob:", ":", "http:/bob:", "http:bob:", "ftp://bob:")),
    (LLM, "OLLAMA_HOST", "http:/bob:s3cret@host"),
    *((MANAGE, "TASK_STORE", text) for text in values(MALFORMED, "redis://:", "rediss://bob:")),
    (MANAGE, "TASK_STORE", "sqlite://bob:s3cret@host/tasks.db"),
])
def test_a_url_that_could_be_misread_is_refused_without_its_password(
    program: str, name: str, text: str
) -> None:
    with pytest.raises(SettingError, match=f"^{name} must ") as caught:
        Settings.from_environ(program, {name: text})
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)
    with pytest.raises(SystemExit):
        load(program, ["--" + name.lower().replace("_", "-"), text], {})


@pytest.mark.parametrize("text", [
    "redis://:s3cret@host:6379/0", "rediss://bob:s3@cret@host", "redis://:s3%23cret@host",
    "sqlite:///home/bob@work/tasks.db", "sqlite:bob@work.db", "memory:",
])
def test_the_url_of_a_store_is_left_as_it_is(text: str) -> None:
    assert Settings.from_environ(MANAGE, {"TASK_STORE": text}).task_store == text


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("arguments", [
    ["x", "http://bob:s3cret@host"], ["--log=http://bob:s3cret@host", "x", "y"],
    ["--max=http://bob:s3cret@host"], ["--manage-server-url", "http:/bob:s3#cret@host"],
])
def test_a_misplaced_url_is_shown_without_its_password(
    program: str, arguments: Sequence[str], capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        load(program, arguments, {})
    assert "cret" not in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(("program", "unbuffered"), [
    *((program, "") for program in PROGRAMS), (TEST, "1")])
def test_help_on_a_full_disk_is_one_line(program: str, unbuffered: str) -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full, forked.start(
            program, "--help", env=environ, stdout=full, stderr=subprocess.PIPE) as process:
        errors = process.communicate()[1].decode()
    assert (process.returncode, errors) == (
        1, f"{program}: the help can't be written: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("arguments", [["--nonsense"], ["--manage-port=x"],
                                       ["--manage-server-url=x"]])
def test_an_error_that_cannot_be_written_still_exits_with_2(
    program: str, arguments: Sequence[str]
) -> None:
    with open("/dev/full", "wb") as full, forked.start(
            program, *arguments, stderr=full) as process:
        assert process.wait(60) == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_keeps_urls_and_names_whole_in_a_narrow_terminal(program: str) -> None:
    status, narrow, _ = run(program, "--help", COLUMNS="20")
    assert status == 0
    assert any("127.0.0.1" in line.split("=")[-1] for line in narrow.split())
    words = {"sqlite:///path/tasks.db", "(http://127.0.0.1:11434)", ".results.jsonl);"}
    whole = run(program, "--help", COLUMNS="200")[1]
    assert all(word in narrow for word in words if word in whole)


def test_the_name_of_each_value_in_the_help_is_what_it_counts() -> None:
    shown = config.make_parser(MANAGE, "").format_help()
    assert "--max-queued-tasks-per-user TASKS" in shown and "--task-store URL" in shown
    assert "--worker-concurrency TASKS" in config.make_parser(LLM, "").format_help()


@pytest.mark.parametrize("text", ["http://bob:geheim#1@host", "http://bob:geheim?1@host"])
def test_a_password_that_breaks_its_url_is_not_shown(text: str) -> None:
    with pytest.raises(SettingError, match=r"%23, %3F and %2F") as caught:
        Settings.from_environ(TEST, {"MANAGE_SERVER_URL": text})
    assert "geheim" not in str(caught.value)
