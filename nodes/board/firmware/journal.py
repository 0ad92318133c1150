"""Readings that survive a power loss. Each is appended when it is sampled, and all are removed once
the host has acknowledged them.

This costs two writes of flash per reading while the host listens. With `"journal": false` in the
config nothing is written, and a power loss loses the readings that were not acknowledged.
"""

import os

from files import finish_rename
from gateway.serial.board_session import readings_held_max
from gateway.serial.frames import Frame, FrameDecoder, encode_frame, frame_body, no_tag
from gateway.serial.session import kind_reading, reading_fields, reading_of
from gateway.serial.tinycbor import CborError, decode, encode

# While the host is away, the queue drops its oldest readings. The file is cut to the queue when it
# is this much longer.
records_max = 4 * readings_held_max


class Journal:
    """One file of frames without a tag. The CRC finds a record that a power loss cut off."""

    def __init__(self, path):
        self._path = path
        self._records = 0

    def load(self):
        """The readings of the file, oldest first, without damaged ones."""
        finish_rename(self._path + ".new", self._path)
        readings = []
        decoder = FrameDecoder()
        try:
            with open(self._path, "rb") as file:
                while True:
                    data = file.read(256)
                    if not data:
                        break
                    for item in decoder.feed(data):
                        self._records += 1
                        if isinstance(item, Frame):
                            try:
                                readings.append(reading_of(decode(item.payload)))
                            except CborError:
                                pass
        except OSError:
            return []
        self._rewrite(readings[-readings_held_max:])
        return readings

    def append(self, reading):
        with open(self._path, "ab") as file:
            file.write(_record(reading))
        self._records += 1

    def drop_acknowledged(self, session):
        """Removes acknowledged readings, rarely enough to spare the flash."""
        if not self._records:
            return
        if not session.held or self._records > records_max:
            self._rewrite(session.held)

    def _rewrite(self, readings):
        with open(self._path + ".new", "wb") as file:
            for reading in readings:
                file.write(_record(reading))
        os.rename(self._path + ".new", self._path)
        self._records = len(readings)


class NoJournal:
    """For boards whose flash must not wear out."""

    def load(self):
        return []

    def append(self, reading):
        pass

    def drop_acknowledged(self, session):
        pass


def _record(reading):
    return encode_frame(frame_body(kind_reading, 0, 0, encode(reading_fields(reading))), no_tag)
