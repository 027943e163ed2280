"""The operator's settings: the only part that knows YAML, pydantic and the environment."""

from bot.config.loading import load
from bot.config.settings import ConfigError, Settings

__all__ = ["ConfigError", "Settings", "load"]
