"""A process of the Python package django_sqlite_efs that writes when it is told to.

    contender.py DATABASE HOLD_MS

It speaks as the benchmark's own workers do (src/contention/worker.rs): `ready` is its first line;
told `warm` it writes once, told `go SECONDS` for so long, and answers with one line of JSON.

The connection stays open, which Django, by this package's wish, closes at the end of each request:
opening is not what is measured here.
"""

import json
import re
import sys
import time

from connected import add_one, connect


def main():
    database, hold_ms = sys.argv[1:]
    connection = connect(database)
    hold = int(hold_ms) / 1000
    answer("ready")
    while line := sys.stdin.readline():
        verb, _, seconds = line.strip().partition(" ")
        if verb not in ("go", "warm"):
            raise ValueError(f"unknown command `{line}`")
        answer(json.dumps([write_for(connection, float(seconds or 0), hold)]))


def answer(line):
    print(line, flush=True)


def write_for(connection, seconds, hold):
    """Writes for so long, at least once."""
    started = time.monotonic()
    written, failed = [], []
    while True:
        begun = time.monotonic()
        try:
            write(connection, hold)
            ended = time.monotonic()
            written.append((micros(ended - begun), micros(ended - started)))
        except Exception as error:  # It counts.
            failed.append(f"{type(error).__name__} " + re.split("[:0-9]", str(error))[0])
        if time.monotonic() >= started + seconds:
            return {"written": written, "failed": failed}


def write(connection, hold):
    from django.db.transaction import atomic

    if hold == 0:
        add_one(connection)
    else:
        with atomic():
            add_one(connection)
            time.sleep(hold)


def micros(seconds):
    return int(seconds * 1_000_000)


if __name__ == "__main__":
    main()
