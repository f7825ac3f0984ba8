"""The setting `soften`: parameters that are ignored where a model cannot honour them."""

from __future__ import annotations

from service.config.scalars import SettingsError
from service.config.settings import Settings
from service.errors import excerpt
from service.schema.support import SOFTENABLE


def softened_parameters(settings: Settings) -> frozenset[str]:
    """The parameters of the setting `soften`.

    Raises:
        SettingsError: one of them cannot be softened.
    """
    names = frozenset(word.strip() for word in settings.soften.split(",") if word.strip())
    for name in sorted(names.difference(SOFTENABLE)):
        raise SettingsError(f"soften: {excerpt(name, 100)} is not one of {', '.join(SOFTENABLE)}")
    return names
