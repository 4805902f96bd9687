"""Run directories by their rows: what no row names was never anybody's."""

import json
from collections.abc import Collection

from ftd.store.db import Database


async def known(db: Database, launches: Collection[str]) -> frozenset[str]:
    """Those of them that an attempt or an inference worker was given."""
    rows = await db.rows(
        "SELECT launch FROM attempts WHERE launch IN (SELECT value FROM json_each(?1)) UNION "
        "SELECT launch FROM inference_workers WHERE launch IN (SELECT value FROM json_each(?1))",
        (json.dumps(sorted(launches)),),
    )
    return frozenset(row["launch"] for row in rows)
