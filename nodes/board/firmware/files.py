"""Files that are replaced as a whole: written under another name, then renamed."""

import os


def finish_rename(new, path):
    """Finish what a power cut may have left: FAT removes the old file before it renames the new.

    An empty new file was never written, and the old one never there.
    """
    try:
        os.stat(path)
    except OSError:
        try:
            if os.stat(new)[6]:
                os.rename(new, path)
        except OSError:
            pass
