#!/usr/bin/env bash
# Installs the Python package django_sqlite_efs, which guards a database by the same lock table, into
# a virtual environment of its own: install.sh DIRECTORY (below the target directory). Nothing is done
# if it is there already. Needs Python 3.10 or newer with venv, and a package index.
set -euo pipefail

directory=${1:?usage: install.sh DIRECTORY}
if [[ ! -e $directory/installed ]]; then
    python3 -m venv --clear "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check 'django_sqlite_efs==0.1.0'
    touch "$directory/installed"
fi
