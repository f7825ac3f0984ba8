"""The hub that models are downloaded from: whether it may be asked, with the user's token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.model_location import HubModel, location_of
from service.config.model_settings import ModelSettings
from service.config.scalars import SettingsError
from service.config.secrets import conceal_secrets
from service.errors import excerpt
from service.security.addresses import is_sent_openly

HUB_VARIABLE = "HF_ENDPOINT"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
FALSE_VALUES = ("", "0", "false", "no", "off")


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether the hub is not asked at all."""
    return environ.get(OFFLINE_VARIABLE, "").lower() not in FALSE_VALUES


def refuse_open_hub(environ: Mapping[str, str]) -> None:
    """Refuse a hub that would be sent the user's token without encryption.

    Raises:
        SettingsError: the hub's URL is invalid, or http to another machine.
    """
    hub = environ.get(HUB_VARIABLE, "")
    try:
        is_open = is_sent_openly(hub)
    except ValueError as error:
        raise SettingsError(f"{HUB_VARIABLE}: {error}") from None
    if is_open:
        raise SettingsError(
            f"{HUB_VARIABLE}: {excerpt(conceal_secrets(hub), 100)} is not asked over http: "
            "a token would be sent unencrypted"
        )


def refuse_open_hub_for(models: Iterable[ModelSettings], environ: Mapping[str, str]) -> None:
    """Refuse such a hub if the service would ask it for one of the models.

    Raises:
        SettingsError: as for `refuse_open_hub`.
    """
    on_hub = any(isinstance(location_of(model.source), HubModel) for model in models)
    if on_hub and not is_offline(environ):
        refuse_open_hub(environ)
