"""Where the ranks that the settings ask for run, and the settings that they cannot have."""

from __future__ import annotations

import shutil

from service.config.model_settings import draft_model_for
from service.config.scalars import SettingsError
from service.config.settings import Settings
from service.ranks.hosts_file import HostsFileError, read_hosts_file
from service.ranks.layout import LayoutRefused, RankLayout, layout_of, local_layout
from service.schema.settings_in_force import NOT_WITH_RANKS


def choose_layout(settings: Settings) -> RankLayout:
    """Where the ranks of the settings run.

    Raises:
        SettingsError: they cannot run so.
    """
    backend = None if settings.ranks_backend == "auto" else settings.ranks_backend
    try:
        if not settings.hosts:
            return local_layout(settings.ranks, backend or "ring")
        if settings.ranks > 1:
            raise SettingsError("ranks: cannot be used with hosts, which has a rank for each host")
        layout = layout_of(
            read_hosts_file(settings.hosts),
            backend=backend,
            network=settings.ranks_network,
            python=settings.ranks_python,
            folder=settings.ranks_cwd,
        )
    except (HostsFileError, LayoutRefused) as error:
        raise SettingsError(str(error)) from None
    if any(place.ssh for place in layout.places) and shutil.which("ssh") is None:
        raise SettingsError("hosts: there is no ssh on this machine")
    return layout


def refuse_with_ranks(settings: Settings, layout: RankLayout) -> None:
    """Refuse settings that would have to be the same on all ranks, which nothing ensures yet.

    Raises:
        SettingsError: one of them is set.
    """
    used = {
        "prompt_cache_dir": settings.prompt_cache_dir != "",
        "wired_limit_bytes": settings.wired_limit_bytes != 0,
        "adapter": any(model.adapter is not None for model in settings.models),
        "draft_model": any(draft_model_for(m, settings.draft_model) for m in settings.models),
    }
    for name in NOT_WITH_RANKS:
        if layout.size > 1 and used[name]:
            raise SettingsError(f"{name}: cannot be used with ranks")
