"""Replaces a file as a whole: writes it under another name, then renames it."""

import os


def finish_rename(new, path):
    """Finish a rename after a power cut: FAT removes the old file before it renames the new one.

    If the new file is empty, writing never began, and there was no old file.
    """
    try:
        os.stat(path)
    except OSError:
        try:
            if os.stat(new)[6]:
                os.rename(new, path)
        except OSError:
            pass
