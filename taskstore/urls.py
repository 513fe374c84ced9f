"""What TASK_STORE may say, and what people write instead; it opens nothing."""
from __future__ import annotations

import os

from .errors import CannotOpen

FORMS = "memory:, sqlite:///path/tasks.db, sqlite:tasks.db or redis://host:6379/0"


def unknown_url(url: str) -> CannotOpen:
    """The error for a URL of no store, which may contain a password."""
    return CannotOpen(f"TASK_STORE must be {FORMS}, not {url.rpartition('@')[2]!r}.")


def sqlite_path(url: str) -> str:
    """Return the path in `sqlite:relative`, `sqlite:/absolute` or `sqlite:///absolute`.

    Two slashes would be followed by a host, and a file in the root folder is what comes out when
    somebody means the current one. Raises CannotOpen.
    """
    path = url.partition(":")[2]
    if not path.strip("/"):
        raise unknown_url(url)
    if path.strip("/") == ":memory:":
        raise CannotOpen(f"TASK_STORE={url} would be a file of that name: for tasks in memory "
                         "write memory:.")
    if "?" in path:
        raise CannotOpen(f"TASK_STORE={url} has options after the '?', and SQLite takes none here.")
    if path.startswith("//") and not path.startswith("///"):
        name = path.strip("/")
        raise CannotOpen(f"TASK_STORE={url} has two slashes: write sqlite:{name} for a path in the "
                         f"current folder, or three slashes, sqlite:///{name}, for one from the "
                         "root folder.")
    if path.startswith("/"):
        path = "/" + path.lstrip("/")
    path = os.path.expanduser(path)
    _check_folder(url, path)
    return path


def _check_folder(url: str, path: str) -> None:
    folder, name = os.path.split(path)
    if os.path.isdir(path) or not name:
        raise CannotOpen(f"TASK_STORE={url} is a folder: add the name of a file, such as "
                         f"sqlite:{path.rstrip('/')}/tasks.db.")
    if os.path.isabs(path) and os.path.dirname(folder) == folder:
        raise CannotOpen(f"TASK_STORE={url} is {path}, in the root folder: for the current folder "
                         f"write sqlite:{name}.")
    if folder and not os.path.isdir(folder):
        relative = path.lstrip("/")
        raise CannotOpen(
            f"TASK_STORE={url} is {path}, but there is no folder {folder}: create it"
            + (f", or write sqlite:{relative} for a path in the current folder."
               if path != relative else ".")
        )
    if not os.access(folder or ".", os.W_OK | os.X_OK):
        raise CannotOpen(f"TASK_STORE={url} is in the folder {folder or '.'}, where this user may "
                         "not write.")
