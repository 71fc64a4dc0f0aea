"""What stands at a feature file's name before it is written: a part of the same collection, or something to keep."""

import json
from pathlib import Path
from typing import Any

import h5py

from deploy_kit.data.collection_plan import CollectionPlan
from deploy_kit.data.layout import LAYOUT_ATTRIBUTE
from deploy_kit.data.shard_listing import LISTING, ShardListing
from deploy_kit.data.stored_rows import require_sound_heaps


def older_file_stands(target: Path, plan: CollectionPlan) -> bool:
    """Return whether a file is there that was not made of this collection's shards, whatever else it is.

    Args:
        target: the feature file to be.
        plan: what is collected, as the folder says now.
    """
    if not target.exists():
        return False
    try:
        require_sound_heaps(target)
        with h5py.File(target, "r") as file:
            return not plan.made or file.attrs[LAYOUT_ATTRIBUTE] != plan.made
    except Exception:  # noqa: BLE001  # whatever cannot be read is somebody's file, and is kept
        return True


def listed_folder(target: Path) -> str | None:
    """Return the folder in which a feature file keeps its shards, None where it keeps none or cannot be read."""
    try:
        require_sound_heaps(target)
        with h5py.File(target, "r") as file:
            text: Any = file[LISTING][...].tobytes()
            return ShardListing.from_json(json.loads(text)).folder
    except Exception:  # noqa: BLE001  # it is asked for a message alone
        return None
