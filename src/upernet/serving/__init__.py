"""The server: `upernet serve`, its HTTP interface and its page."""

from upernet.serving.app import create_app
from upernet.serving.limits import Limits

__all__ = ["Limits", "create_app"]
