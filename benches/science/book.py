"""The lines of runs: one JSON object a line, appended whole, read even where the last one was cut."""

import json
import os

try:
    import fcntl
except ImportError:  # Windows: two runners beside each other are not noticed there
    fcntl = None


class BookError(Exception):
    """Lines that cannot be read or written, in one line."""


def read(path):
    """The lines of `path`, none if it is not there. What the end of a process or a full disk has cut is left out."""
    try:
        with open(path, "rb") as file:
            parts = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as why:
        raise BookError(f"{path}: {why.strerror}") from why
    lines = []
    for part in parts:
        try:
            line = json.loads(part)
        except ValueError:
            continue
        if isinstance(line, dict) and "key" in line and "status" in line:
            lines.append(line)
    return lines


class Book:
    """A file of lines that one process appends to."""

    def __init__(self, path):
        self.path = path
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as why:
            raise BookError(f"{path}: {why.strerror}") from why
        if fcntl is not None:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as why:
                os.close(self.file)
                raise BookError(f"{path}: another runner writes to it; wait for its end, or give another --results") from why

    def append(self, line):
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        # a line that was cut does not swallow this one
        size = os.fstat(self.file).st_size
        if size and os.pread(self.file, 1, size - 1) != b"\n":
            text = b"\n" + text
        os.write(self.file, text)
        os.fsync(self.file)

    def close(self):
        os.close(self.file)
