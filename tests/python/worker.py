"""A process with one Django connection of the Python package django_sqlite_efs, driven by a test.

It speaks as the binary `worker` does: each line on standard input is a command, each is answered by
one line on standard output, `ok ..` or `error KIND retryable|final MESSAGE`. The first line of all,
without a command, says that it is ready. The process ends with its standard input.

    worker.py DATABASE [timeout=SECONDS] [close=never]

`open PATH TABLE` goes on with another database and lock table, as starting takes long.

The lock is configured by the package's own environment variables (`SQLITE_LOCK_DYNAMODB_TABLE`,
`SQLITE_LOCK_EXPIRATION`, `SQLITE_LOCK_MAX_ATTEMPTS`), the store by boto3's. As at the end of a request
in Django, the connection is closed after each command and each transaction, unless `close=never`.
"""

import logging
import os
import sys
import time

import django
from django.conf import settings

ACCOUNTS = 8
SUM = 8_000
# After a failure: what is broken stays broken, and need not be asked a thousand times a second.
PAUSE_AFTER_FAILURE = 0.002


class RolledBack(Exception):
    """Ends a transaction that was told to be rolled back."""


class Abandoned(Exception):
    """Ends a transaction whose commands have ended."""


def main():
    database, *arguments = sys.argv[1:]
    options = dict(argument.split("=", 1) for argument in arguments)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django_sqlite_efs",
                "NAME": database,
                "OPTIONS": {"timeout": float(options.get("timeout", "3"))},
            }
        }
    )
    # Every refused attempt is a warning.
    logging.disable(logging.CRITICAL)
    django.setup()
    from django.db import connection, connections

    closes = options.get("close") != "never"
    answer("ok open")
    for command in commands():
        if command.startswith("open "):
            _, database, os.environ["SQLITE_LOCK_DYNAMODB_TABLE"] = command.split(" ")
            connections.settings["default"]["NAME"] = database
            del connections["default"]
            answer("ok open")
            continue
        answer(result_of(lambda: run(connection, command)))
        if closes:
            end_request(connection)


def commands():
    while line := sys.stdin.readline():
        yield line.rstrip("\n")


def answer(line):
    print(line.replace("\n", " "), flush=True)


def result_of(work):
    try:
        return f"ok {work()}".rstrip()
    except Abandoned:
        sys.exit()
    except Exception as error:  # Whatever it is, it is the answer.
        again = "retryable" if is_retryable(error) else "final"
        return f"error {type(error).__name__} {again} {error}"


def is_retryable(error):
    """Whether nothing was done because somebody else was at work."""
    return type(error).__name__ == "DatabaseBusy" or "is locked" in str(error)


def end_request(connection):
    try:
        connection.close()
    except Exception as error:  # Django logs it; the request was answered before.
        print(f"closing: {type(error).__name__}: {error}", file=sys.stderr)


def run(connection, command):
    verb, _, rest = command.partition(" ")
    match verb:
        case "execute":
            with connection.cursor() as cursor:
                return cursor.execute(rest).rowcount
        case "query":
            return query(connection, rest)
        case "begin" | "immediate":
            return transaction(connection)
        case "write-ledger":
            return write_ledger(connection, *rest.split(" "))
        case "read-ledger":
            return read_ledger(connection, rest)
    raise ValueError(f"unknown command `{verb}`")


def query(connection, sql):
    """The rows, each its columns with `|` between, with `; ` between the rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        rows = cursor.fetchall()
    text = lambda value: "NULL" if value is None else str(value)
    return "; ".join("|".join(map(text, row)) for row in rows)


def transaction(connection):
    """Runs commands in `atomic`, up to `commit` or `rollback`, whose answer is the transaction's."""
    from django.db.transaction import atomic

    try:
        with atomic():
            answer("ok begun")
            for command in commands():
                if command == "commit":
                    break
                if command == "rollback":
                    raise RolledBack
                answer(result_of(lambda: run(connection, command)))
            else:
                raise Abandoned
    except RolledBack:
        return "rolled back"
    return "committed"


def write_ledger(connection, writer, seconds):
    """Writes for so long, whatever fails; says how many writes were acknowledged."""
    from django.db.transaction import atomic

    until = time.monotonic() + float(seconds)
    acknowledged = failed = sequence = 0
    while time.monotonic() < until:
        sequence += 1
        try:
            with atomic():
                write_entry(connection, writer, sequence)
            acknowledged += 1
        except Exception:  # It counts.
            failed += 1
            time.sleep(PAUSE_AFTER_FAILURE)
        end_request(connection)
    return f"{acknowledged} acknowledged, {failed} failed"


def write_entry(connection, writer, sequence):
    """Reads, changes here, and writes back: whoever writes over another's write in between loses it."""
    with connection.cursor() as cursor:
        [(value,)] = cursor.execute("SELECT value FROM counter").fetchall()
        cursor.execute("UPDATE counter SET value = %s", [value + 1])
        cursor.execute("INSERT INTO entry VALUES (%s, %s, %s)", [writer, sequence, value + 1])
        for account, change in [(1 + value % ACCOUNTS, -1), (1 + (value + 1) % ACCOUNTS, 1)]:
            read = "SELECT balance FROM account WHERE id = %s"
            [(balance,)] = cursor.execute(read, [account]).fetchall()
            write = "UPDATE account SET balance = %s WHERE id = %s"
            cursor.execute(write, [balance + change, account])


def read_ledger(connection, seconds):
    """Reads for so long, whatever fails; each read is one statement, since `atomic` takes the lock."""
    until = time.monotonic() + float(seconds)
    whole = torn = failed = 0
    sql = """SELECT (SELECT sum(balance) FROM account), (SELECT count(*) FROM entry),
                    (SELECT value FROM counter)"""
    while time.monotonic() < until:
        try:
            with connection.cursor() as cursor:
                [(total, entries, counter)] = cursor.execute(sql).fetchall()
            if total == SUM and entries == counter:
                whole += 1
            else:
                torn += 1
        except Exception:  # It counts.
            failed += 1
            time.sleep(PAUSE_AFTER_FAILURE)
        end_request(connection)
    return f"{whole} whole, {torn} torn, {failed} failed"


if __name__ == "__main__":
    main()
