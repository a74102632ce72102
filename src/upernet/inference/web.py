"""Photos from the web."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

from upernet.errors import UpernetError, printable

LARGEST = 100 << 20
"""Largest number of bytes of a photo that comes from the web or from an open file."""
SILENCE = 20.0
"""Seconds that a server may stay silent."""
PATIENCE = 120.0
"""Seconds that a download may take."""
SCHEMES = ("http", "https")


def is_address(text: str) -> bool:
    """Return whether `text` looks like a web address, of whatever scheme, rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def fetch_photo(address: str) -> bytes:
    """Download a photo.

    Redirects are followed, but only to http and https, and never from https to http.

    Raises:
        UpernetError: The address is not valid or has another scheme, the server does not answer with a file in time, or
            the file has more than `LARGEST` bytes.
    """
    try:
        scheme = urlsplit(address).scheme.lower()
    except ValueError as error:
        raise UpernetError(f"{address}: not a valid address ({error}); check it.") from None
    if scheme not in SCHEMES:
        raise UpernetError(f"{address}: photos come from http and https addresses only; download it first.")
    from huggingface_hub.errors import OfflineModeIsEnabled  # here, because most photos are files

    from upernet.checkpoints.http import CONNECTION_ERRORS

    try:
        return _download(address)
    except OfflineModeIsEnabled:
        raise UpernetError(f"{address}: downloads are off (HF_HUB_OFFLINE); unset it.") from None
    except CONNECTION_ERRORS as error:
        reason = printable(error).rstrip(".") or type(error).__name__
        raise UpernetError(f"{address}: cannot be downloaded ({reason}); check the address.") from None


def _download(address: str) -> bytes:
    from huggingface_hub.utils import get_session

    end = time.monotonic() + PATIENCE
    content = bytearray()
    headers = {"user-agent": "upernet", "Accept-Encoding": "identity"}  # no small answer becomes a large one
    with get_session().stream("GET", address, headers=headers, timeout=SILENCE, follow_redirects=True) as response:
        chain = [*response.history, response]
        schemes = [urlsplit(str(answer.url)).scheme.lower() for answer in chain]
        if any(scheme not in SCHEMES for scheme in schemes) or ("https" in schemes and schemes[-1] != "https"):
            raise UpernetError(f"{address}: leads to {printable(response.url)}, which is not https; download it first.")
        if response.status_code != 200:
            answer = f"{response.status_code} {printable(response.reason_phrase)}".rstrip()
            raise UpernetError(f"{address}: the server answered {answer}; check the address.")
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST:
                raise UpernetError(f"{address}: has more than {LARGEST >> 20} MiB; download and reduce it first.")
            if time.monotonic() > end:
                raise UpernetError(f"{address}: takes more than {PATIENCE:.0f} seconds; download it first.")
    return bytes(content)
