"""
Extension of griffe, with which mkdocstrings reads docstrings.
"""

from typing import Any

import griffe
from google_style import to_google


class Docstrings(griffe.Extension):
    """Rewrites every docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            obj.docstring.value = to_google(obj.docstring.value)
