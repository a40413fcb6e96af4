"""Files of one store that become files of another: linked where the file system can, else copied."""

import os
import shutil
from pathlib import Path

from ..files import FileRecord, replacing
from ..reader import Store


def link_file(store: Store, root: Path, record: FileRecord) -> FileRecord:
    """Have a file of the store in another one too, at the same path; returns its record.

    Args:
        store: local, or remote: its file is then fetched, and linked to the cache's.
        root: the folder of the other store.
        record: of the file.

    Raises:
        CorruptStoreError: the file is missing, or of another size than its record says.
    """
    source = store.file(record)
    (root / record.path).unlink(missing_ok=True)  # an interrupted run's: renaming one link over another does nothing
    with replacing(root / record.path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)
    return record
