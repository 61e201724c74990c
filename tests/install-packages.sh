#!/usr/bin/env bash
# Installs what the tests with FUSE mounts need (Debian: bindfs, fuse3), if it is missing and may be installed.
# They are skipped, saying why, where it cannot be.
set -euo pipefail

if command -v bindfs >/dev/null; then
    exit
fi
if [[ $EUID -ne 0 || ! -e /dev/fuse ]] || ! command -v apt-get >/dev/null; then
    echo "bindfs is not installed: needs root, /dev/fuse and apt-get"
    exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -qq -y --no-install-recommends bindfs fuse3 ||
    echo "bindfs is not installed: apt-get has failed"
