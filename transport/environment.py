"""What the environment says about connections: proxies and certificates."""
from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from typing import Dict, Union
from urllib.parse import urlsplit

import requests

from console.printable import without_password
from transport import syntax


class SetupError(ValueError):
    """A token or an environment variable can't be used; the message is one line that names it."""


def find_proxies(url: str) -> Dict[str, str]:
    """Return the proxy that the environment sets for `url`, by its scheme; {} if there is none.

    Loopback needs none. Raises SetupError for one that can't be used.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return {}
    proxies = requests.utils.get_environ_proxies(url)
    proxy = requests.utils.select_proxy(url, proxies)
    if not proxy:
        return {}
    try:
        return {parts.scheme: syntax.proxy_url(proxy)}
    except ValueError as error:
        raise SetupError(f"{proxy_variable(url)} {error}, not "
                         f"{without_password(proxy)!r}.") from None


def proxy_variable(url: str) -> str:
    """Return the environment variable that sets the proxy for `url`."""
    scheme = urlsplit(url).scheme
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    return next((name for name in names if os.environ.get(name)), names[0])


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name or address."""
    host = host.rstrip(".").lower()
    if host in ("localhost", "ip6-localhost", "ip6-loopback") or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        try:
            ip = ipaddress.ip_address(socket.inet_aton(host))  # 127.1 and other short forms
        except (OSError, UnicodeError):
            return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


def find_certificates(url: str) -> Union[bool, str]:
    """Return the file or folder of certificates to trust, or True for the default ones.

    Raises SetupError if the environment names one that can't be used.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if not path:
            continue
        if urlsplit(url).scheme == "https":
            is_folder = os.path.isdir(path)
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                    None if is_folder else path, path if is_folder else None)
            except ssl.SSLError:
                raise SetupError(f"{name} names {path!r}, which holds no certificates in PEM "
                                 "form.") from None
            except OSError as error:
                raise SetupError(f"{name} names {path!r}, which can't be read: "
                                 f"{error.strerror}.") from None
        return path
    return True
