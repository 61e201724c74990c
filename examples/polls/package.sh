#!/usr/bin/env bash
# Builds the function for AWS Lambda and says how large it is: package.sh [arm64|x86_64]
#
# The binary is target/lambda/polls/bootstrap, where template.yaml takes it from. Needs cargo-lambda (`pip install
# cargo-lambda`, which brings zig as the cross compiler) and, for the other architecture than this machine's,
# `rustup target add aarch64-unknown-linux-gnu` (or x86_64-unknown-linux-gnu). Fails if the result is too large.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly ARCHITECTURE=${1:-arm64}
# A cold start loads all of it. MB of a million bytes.
readonly BINARY_BAR=12000000 ZIP_BAR=5000000

case $ARCHITECTURE in
    arm64) flag=--arm64 ;;
    x86_64) flag=--x86-64 ;;
    *) echo "usage: package.sh [arm64|x86_64]" >&2; exit 2 ;;
esac
command -v cargo-lambda >/dev/null || { echo "cargo-lambda is missing: pip install cargo-lambda" >&2; exit 2; }

cargo lambda build --quiet --locked --package polls --profile lambda "$flag"

directory=$(cargo metadata --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/lambda/polls
python3 - "$directory" "$BINARY_BAR" "$ZIP_BAR" <<'PYTHON'
import os, sys, zipfile
directory, binary_bar, zip_bar = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
binary, archive = os.path.join(directory, "bootstrap"), os.path.join(directory, "..", "polls.zip")
# As `sam deploy` packs the directory.
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
    file.write(binary, "bootstrap")
sizes = {"binary, stripped": (os.path.getsize(binary), binary_bar), "zip": (os.path.getsize(archive), zip_bar)}
for name, (size, bar) in sizes.items():
    print(f"{name:17} {size / 1e6:5.1f} MB  {'ok' if size <= bar else 'TOO LARGE'}, the bar is {bar / 1e6:.0f} MB")
print(os.path.relpath(binary))
sys.exit(any(size > bar for size, bar in sizes.values()))
PYTHON
