"""The optional parts of the installation (pyproject.toml), asked for before work begins."""

import importlib.util

from seqvis.errors import ConfigError


def require_extra(extra: str, *modules: str) -> None:
    """Raises ConfigError if one of the extra's modules is not installed. Imports none of them."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not installed; pip install 'seqvis[{extra}]' brings what "
            f"this needs"
        )
