"""The version of the installed program.

The name `tracker` on PyPI is somebody else's, so the distribution has another name than the package and the command.
"""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "tracker-flight-recorder"
"""The name under `[project]` in pyproject.toml."""


def tracker_version() -> str:
    """Like `0.1.0`; "unknown" where the package is not installed, but run from a folder."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
