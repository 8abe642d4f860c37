"""The installed package's version."""

from importlib.metadata import PackageNotFoundError, version


def read_version() -> str:
    """0.0.0 where the sources are not installed."""
    try:
        return version("quartet")
    except PackageNotFoundError:
        return "0.0.0"
