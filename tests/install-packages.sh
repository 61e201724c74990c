#!/usr/bin/env bash
# Installs what the tests with FUSE mounts, those in a browser and those that count system calls and instructions
# need (Debian: bindfs, fuse3, chromium, chromium-driver, strace, valgrind, libc6-dbg), if it is missing and may be
# installed. They are skipped, saying why, where it cannot be.
set -euo pipefail

wanted=()
if ! command -v bindfs >/dev/null; then
    if [[ -e /dev/fuse ]]; then
        wanted+=(bindfs fuse3)
    else
        echo "bindfs is not installed: needs /dev/fuse"
    fi
fi
if ! command -v chromedriver >/dev/null; then
    wanted+=(chromium chromium-driver)
fi
if ! command -v strace >/dev/null; then
    wanted+=(strace)
fi
if ! command -v valgrind >/dev/null; then
    wanted+=(valgrind libc6-dbg)
fi
if ((${#wanted[@]} == 0)); then
    exit
fi
if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${wanted[*]}: needs root and apt-get"
    exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -qq -y --no-install-recommends "${wanted[@]}" ||
    echo "not installed: ${wanted[*]}: apt-get has failed"
