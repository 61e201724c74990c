#!/usr/bin/env bash
# Installs a program from the Python package index into a virtual environment of its own:
# install-tool.sh DIRECTORY NAME==VERSION (the directory below the target directory). Nothing is done if it is
# there already. Needs Python 3.10 or newer with venv.
set -euo pipefail

directory=${1:?usage: install-tool.sh DIRECTORY NAME==VERSION}
requirement=${2:?usage: install-tool.sh DIRECTORY NAME==VERSION}
if [[ $(cat "$directory/installed" 2>/dev/null) != "$requirement" ]]; then
    python3 -m venv --clear "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check "$requirement"
    echo "$requirement" >"$directory/installed"
fi
