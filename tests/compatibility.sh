#!/usr/bin/env bash
# Builds and tests the crate with the oldest versions of Diesel and libsqlite3-sys that it allows; the lock
# file has the newest ones, which all other tests use. Artifacts of other dependencies are shared with the
# workspace, so that only what depends on Diesel is built again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
oldest_diesel=$(sed -n 's/^diesel = { version = ">=\([0-9.]*\),.*/\1/p' Cargo.toml)
oldest_sqlite=$(sed -n 's/^libsqlite3-sys = { version = ">=\([0-9.]*\),.*/\1.0/p' Cargo.toml)
[[ -n "$oldest_diesel" && -n "$oldest_sqlite" ]] ||
    { echo "the versions of diesel and libsqlite3-sys are not found in Cargo.toml" >&2; exit 1; }

copy=$target/compatibility
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory "$copy"
cd "$copy"
export CARGO_TARGET_DIR=$target
cargo update --quiet --package diesel --precise "$oldest_diesel"
cargo update --quiet --package libsqlite3-sys --precise "$oldest_sqlite"
grep --no-group-separator -A 1 -E '^name = "(diesel|libsqlite3-sys)"' Cargo.lock
cargo test -p diesel-sqlite-efs --all-features
cargo test -p integration --no-default-features --test suite -- \
    diesel_traits:: files:: recovery:: statements:: transactions::
