"""A process of the Python package that does one thing after the other: actor.py DATABASE

It speaks as the benchmark's own does (src/requests/actor.rs).
"""

import sys

from connected import add_one, connect, read


def main():
    connection = connect(sys.argv[1])
    while line := sys.stdin.readline():
        act(connection, line.strip())
        print("done", flush=True)


def act(connection, verb):
    from django.db.transaction import atomic

    match verb:
        case "open":
            connection.ensure_connection()
        case "close":
            connection.close()
        case "read":
            read(connection)
        case "read-transaction":
            with atomic():
                read(connection)
                read(connection)
        case "cte-read":
            read(connection, "WITH one AS (SELECT n FROM counter WHERE id = 1) SELECT n FROM one")
        case "pragma-read":
            read(connection, "PRAGMA user_version")
        case "write":
            add_one(connection)
        case "write-transaction":
            with atomic():
                read(connection)
                add_one(connection)
                add_one(connection)
        case _:
            raise ValueError(f"unknown command `{verb}`")


if __name__ == "__main__":
    main()
