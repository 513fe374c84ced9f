"""Names the cause of a failed request and says what to do about it. It sends no request itself.

Each cause has a sentence of its own: somebody who reads it can't see the other machine.
"""
from __future__ import annotations

import errno
import http.client
import socket
import ssl
from typing import List, NamedTuple, Optional
from urllib.parse import urlsplit

import requests
import urllib3

from console.printable import end_sentence, make_printable, without_password
from transport import probes
from transport.chains import describe, find, find_text, unwrap
from transport.environment import proxy_variable
from transport.no_answer import (
    CERTIFICATE,
    LOST,
    NAME,
    NOT_HTTP,
    OTHER,
    PROXY,
    REFUSED,
    SILENT,
    TLS,
    TOO_LARGE,
    UNREACHABLE,
    URL,
    AnswerTooLarge,
    NoAnswer,
    Peer,
)

# OpenSSL's numbers for what is wrong with a certificate (X509_V_ERR_* in x509_vfy.h).
NOT_YET_VALID, EXPIRED, NAME_MISMATCH, ADDRESS_MISMATCH = 9, 10, 62, 64
UNKNOWN_ISSUER = (2, 18, 19, 20, 21)

ROUTE_ERRORS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN,
                errno.EADDRNOTAVAIL)


def diagnose(error: BaseException, peer: Peer, proxy: str = "", may_probe: bool = True,
             has_worked: bool = False) -> NoAnswer:
    """Return the NoAnswer for an exception of requests, urllib3, ssl or socket.

    `proxy` is the URL of the proxy that the request went through. With `may_probe`, an unclear
    failure is settled by connecting once more, which takes up to 2 seconds. `has_worked` says that
    the connection had brought an answer before.
    """
    chain = list(unwrap(error))
    explanation = (_FELL_SILENT if has_worked and is_silence(error)
                   else _explain(chain, peer, may_probe and not proxy))
    if proxy and (explanation.cause in (NAME, REFUSED, UNREACHABLE) or find(chain, _PROXY_ERRORS)):
        explanation = _explain_proxy(chain, peer, proxy, explanation.problem)
    cause, problem, advice = explanation
    if cause in (NAME, REFUSED, UNREACHABLE, PROXY, LOST, SILENT, OTHER):
        problem = f"is not answering: {problem}"
    message = f"{peer.name} at {without_password(peer.url)} {end_sentence(problem)} {advice}"
    return NoAnswer(make_printable(message), cause)


def is_silence(error: BaseException) -> bool:
    """Whether nothing came from the other side, as when the network no longer reaches it."""
    chain = list(unwrap(error))
    return bool(find(chain, _TIMEOUTS)) or any(
        isinstance(part, OSError) and part.errno in ROUTE_ERRORS for part in chain)


class _Explanation(NamedTuple):
    cause: str
    problem: str
    advice: str


_FELL_SILENT = _Explanation(
    SILENT, "a connection that worked has fallen silent", "The network has lost it, or the server "
    "has moved, is overloaded or stuck.")
# A peer's URL is http:// or https://, so an unknown scheme is the proxy's.
_PROXY_URL_ERRORS = (requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema,
                     urllib3.exceptions.URLSchemeUnknown)
_PROXY_ERRORS = (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError,
                 *_PROXY_URL_ERRORS)
# TimeoutError is the kernel's word that nothing is acknowledged any more.
_TIMEOUTS = (socket.timeout, TimeoutError, urllib3.exceptions.TimeoutError, requests.Timeout)
_CONNECT_TIMEOUTS = (urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout)
_NO_CONNECTION = (urllib3.exceptions.NewConnectionError,)
_LOST_ERRORS = (ConnectionError, urllib3.exceptions.ProtocolError, http.client.HTTPException,
                requests.exceptions.ChunkedEncodingError)
_URL_ERRORS = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
               requests.exceptions.InvalidHeader, urllib3.exceptions.LocationValueError,
               UnicodeError)


def _explain(chain: List[BaseException], peer: Peer, may_probe: bool) -> _Explanation:
    if find(chain, (AnswerTooLarge,)):
        return _Explanation(TOO_LARGE, "sent a larger answer than is accepted",
                            f"Is {peer.setting} right?")
    is_tls = urlsplit(peer.url).scheme == "https"
    return (_explain_certificate(chain, peer)
            or (_explain_tls(chain, peer, may_probe) if is_tls else None)
            or _explain_connecting(chain, peer)
            or _explain_no_answer(chain, peer, may_probe and not is_tls)
            or _Explanation(OTHER, describe(chain[0]), f"Is {peer.setting} right?"))


def _explain_proxy(chain: List[BaseException], peer: Peer, proxy: str, problem: str
                   ) -> _Explanation:
    tunnel = find_text(chain, "Tunnel connection failed: ")
    reason = (f"refused to connect to it ({tunnel})" if tunnel
              else f"can't be used: {describe(chain[0])}" if find(chain, _PROXY_URL_ERRORS)
              else f"can't be reached: {problem}")
    return _Explanation(PROXY, f"the proxy {without_password(proxy)} {reason}",
                        f"Correct {proxy_variable(peer.url)}, or add {_host(peer.url)} to "
                        "no_proxy if it can be reached without a proxy.")


def _explain_tls(chain: List[BaseException], peer: Peer, may_probe: bool
                 ) -> Optional[_Explanation]:
    is_handshake = bool(find(chain, (ssl.SSLError,)) or find_text(chain, "handshake"))
    is_hang_up = bool(find(chain, (http.client.RemoteDisconnected, ConnectionResetError)))
    if (is_handshake or is_hang_up) and may_probe and probes.speaks_plain_http(peer.url):
        return _Explanation(TLS, "speaks plain HTTP, not TLS, on this port",
                            f"Begin {peer.setting} with http://, or use the port that speaks TLS.")
    if is_handshake:
        return _Explanation(TLS, f"did not complete the TLS handshake ({_tls_reason(chain)})",
                            f"Does this port speak TLS? {peer.setting} begins with https://.")
    return None


def _explain_no_answer(chain: List[BaseException], peer: Peer, may_probe: bool
                       ) -> Optional[_Explanation]:
    """Explain why nothing usable came over a connection, or return None for another failure."""
    is_hang_up = bool(find(chain, (http.client.RemoteDisconnected,)))
    if find(chain, _TIMEOUTS):
        return _Explanation(SILENT, "it accepted the connection, but its answer did not come in "
                                    "time", f"It is overloaded or stuck, or {peer.setting} is the "
                                            "port of another program.")
    if find(chain, _LOST_ERRORS) and may_probe and probes.speaks_tls(peer.url):
        return _Explanation(TLS, "speaks TLS, not plain HTTP, on this port",
                            f"Begin {peer.setting} with https://.")
    if find(chain, (http.client.BadStatusLine,)) and not is_hang_up:
        return _Explanation(NOT_HTTP, "does not speak HTTP on this port",
                            f"Is the port in {peer.setting} right?")
    if find(chain, _LOST_ERRORS):
        return _Explanation(LOST, "the connection was closed before the answer was complete",
                            f"Did it stop or restart, or is {peer.setting} the port of another "
                            "program?")
    if find(chain, (ValueError,)):
        return _Explanation(NOT_HTTP, "sent an answer that is not HTTP",
                            f"Is {peer.setting} right?")
    return None


def _explain_connecting(chain: List[BaseException], peer: Peer) -> Optional[_Explanation]:
    """Explain why there is no connection, or return None if there was one."""
    host = _host(peer.url)
    if find(chain, _URL_ERRORS):
        return _Explanation(URL, f"can't be asked: {describe(chain[0])}",
                            f"Correct {peer.setting}.")
    resolution = find(chain, (socket.gaierror,))
    if resolution and resolution.errno == socket.EAI_AGAIN:
        return _Explanation(NAME, f"the name {host} can't be looked up now, because no name server "
                                  "answers", "Is this machine online?")
    if resolution:
        return _Explanation(NAME, f"the name {host} is unknown", f"Is the name in {peer.setting} "
                                                                 "right?")
    if find(chain, (ConnectionRefusedError,)):
        return _Explanation(REFUSED, "nothing listens on this port (connection refused)",
                            f"Is `{peer.command}` running there, and is {peer.setting} right?")
    if find(chain, _CONNECT_TIMEOUTS) or (
            find(chain, _NO_CONNECTION) and find(chain, (TimeoutError,))):
        return _Explanation(UNREACHABLE, f"{host} does not react to connections (timed out)",
                            f"Is the machine on, does a firewall block the port, and is "
                            f"{peer.setting} right?")
    for error in chain:
        if isinstance(error, OSError) and error.errno in ROUTE_ERRORS:
            return _Explanation(UNREACHABLE, f"there is no route to {host} ({error.strerror})",
                                f"Is this machine online, and is {peer.setting} right?")
    return None


def _explain_certificate(chain: List[BaseException], peer: Peer) -> Optional[_Explanation]:
    error = find(chain, (ssl.SSLCertVerificationError,))
    number = getattr(error, "verify_code", 0)
    # urllib3 has a CertificateError of its own, in a place that differs between its versions.
    if number in (NAME_MISMATCH, ADDRESS_MISMATCH) or any(
            type(error).__name__ == "CertificateError" for error in chain):
        return _Explanation(CERTIFICATE, f"has a certificate for another name than "
                                         f"{_host(peer.url)}",
                            f"Use the name in the certificate in {peer.setting}.")
    if not error:
        return None
    if number == EXPIRED:
        return _Explanation(CERTIFICATE, "has a certificate that has expired",
                            "Renew it there, or correct the clock of this machine.")
    if number == NOT_YET_VALID:
        return _Explanation(CERTIFICATE, "has a certificate that is not valid yet",
                            "Correct the clock of this machine.")
    reason = getattr(error, "verify_message", "") or describe(error)
    if number in UNKNOWN_ISSUER:
        return _Explanation(CERTIFICATE, f"has a certificate that this machine does not trust "
                                         f"({reason})",
                            "Set REQUESTS_CA_BUNDLE to a file with the certificate of its issuer "
                            "(its own if it is self-signed).")
    return _Explanation(CERTIFICATE, f"has a certificate that can't be verified ({reason})",
                        "Correct the certificate there.")


def _tls_reason(chain: List[BaseException]) -> str:
    error = find(chain, (ssl.SSLError,))
    if error and getattr(error, "reason", None):
        return str(error.reason).replace("_", " ").lower()
    return "timed out" if find(chain, _TIMEOUTS) else "connection closed"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
