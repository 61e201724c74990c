#!/usr/bin/env bash
# Compares the public API of the crate with diesel-sqlite-efs/public-api.txt.
#
# tests/public-api/check.sh          fails, and shows the difference, if there is one
# tests/public-api/check.sh --write  writes the file anew: for a change that is meant
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly LISTING=diesel-sqlite-efs/public-api.txt
target=$(cargo metadata --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')

# The options of the step `rustdoc` of .ci/run, so that the dependencies are checked once.
RUSTDOC=$PWD/tests/public-api/rustdoc.sh RUSTDOCFLAGS="-Z unstable-options --output-format json" \
    cargo doc --quiet --locked --workspace --all-features --no-deps
cargo run --quiet --locked --manifest-path tests/public-api/Cargo.toml --target-dir "$target/public-api" -- \
    "$target/doc/diesel_sqlite_efs.json" >"$target/public-api.txt"

if [[ ${1-} == --write ]]; then
    cp "$target/public-api.txt" $LISTING
elif ! diff -U 2 --label $LISTING --label "the code" $LISTING "$target/public-api.txt"; then
    echo "The public API has changed. If that is meant: tests/public-api/check.sh --write" >&2
    exit 1
fi
