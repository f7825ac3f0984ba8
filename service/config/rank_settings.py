"""The settings of several processes that compute the models together."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.ranks import SplitSetting
from service.config.scalars import path_meta


class RankSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of ranks, which are a part of all settings."""

    ranks: Annotated[
        int, Meta(description="The processes that compute the models together.", ge=1, le=64)
    ] = 1
    hosts: Annotated[
        str,
        path_meta(
            "A file of hosts, as mlx.launch reads it: one process on each computes the models "
            "together with the others. The first host is this machine; ssh starts the others."
        ),
    ] = ""
    ranks_backend: Annotated[
        Literal["auto", "any", "ring", "jaccl", "jaccl-ring", "nccl", "mpi"],
        Meta(
            description="What of MLX connects the processes. auto: what the file of hosts says, "
            "else ring. any: the first of jaccl, nccl and ring that all have."
        ),
    ] = "auto"
    ranks_python: Annotated[
        str,
        Meta(description="The Python of the other hosts, with mlxd; empty: at this one's path."),
    ] = ""
    ranks_cwd: Annotated[
        str,
        Meta(
            description="The folder in which other hosts start it, from which mlxd is imported "
            "there; empty: their users' homes."
        ),
    ] = ""
    ranks_network: Annotated[
        Literal["private", "shared", "public"],
        Meta(
            description="Which addresses ranks may have, as token ids and tensors travel in clear: "
            "shared allows 100.64.0.0/10 (Tailscale), too, public any."
        ),
    ] = "private"
    ranks_split: Annotated[
        SplitSetting,
        Meta(description="What each rank has: part of each layer, or some layers; auto: either."),
    ] = "auto"
