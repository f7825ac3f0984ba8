"""The ids of stored objects, with the tag of the replica that keeps them.

With the setting `replica_tag` an id is `resp_TAG_HEX`, by which a proxy finds the replica of a
`GET`, a `DELETE` or a cancel; without it `resp_HEX`.
"""

from __future__ import annotations

import re
import uuid

from service.errors import StoredObjectNotFound

# A cut id still has its tag. What clients call their own items is mostly not hexadecimal.
TAGGED = re.compile(r"[a-z]+_(?P<tag>[a-z0-9]{1,16})_[0-9a-f]{0,32}")


class ObjectIds:
    """Makes the ids of one replica, and recognizes those of others; `tag` is empty without any."""

    def __init__(self, tag: str = "") -> None:
        self.tag = tag

    def new(self, prefix: str) -> str:
        """A random public id."""
        return "_".join(filter(None, (prefix, self.tag, uuid.uuid4().hex)))

    def explain(self, id: str) -> str:
        """Which replica keeps an object and which this is; empty if it is not another's."""
        found = TAGGED.fullmatch(id)
        if not self.tag or found is None or found["tag"] == self.tag:
            return ""
        return (
            f"it is of replica `{found['tag']}`, and this is replica `{self.tag}`; "
            "send the requests of a session with one `x-session-id`"
        )

    def not_found(self, kind: str, id: str) -> StoredObjectNotFound:
        """The error for an id that is unknown, another owner's or another replica's."""
        return StoredObjectNotFound(kind, id, reason=self.explain(id))
