"""A Django connection of the Python package django_sqlite_efs to one database."""

import logging

import django
from django.conf import settings


def connect(database):
    """The connection, open, with the package's default for everything but the timeout, 3 s."""
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django_sqlite_efs",
                "NAME": database,
                "OPTIONS": {"timeout": 3},
            }
        }
    )
    # Every refused attempt is a warning.
    logging.disable(logging.CRITICAL)
    django.setup()
    from django.db import connection

    connection.ensure_connection()
    return connection


def add_one(connection):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE counter SET n = n + 1")


def read(connection, sql="SELECT n FROM counter"):
    with connection.cursor() as cursor:
        return cursor.execute(sql).fetchall()
