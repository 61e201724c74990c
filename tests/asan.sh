#!/usr/bin/env bash
# The tests of the unsafe code and of what calls it, under AddressSanitizer, SQLite included: expect no
# report, and no leak. Builds everything once more in a directory of its own: minutes, and 3 GB in target/asan.
#
# tests/asan.sh                  the crate's own tests of VFS and connection
# tests/asan.sh store::dynamodb  and those that are named so
#
# The option is one of nightly's; RUSTC_BOOTSTRAP lets the stable compiler take it.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly HOST=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
export CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g"
# GCC's way to register globals looks like duplicates to LLVM's runtime.
export ASAN_OPTIONS=detect_odr_violation=0:${ASAN_OPTIONS:-}
exec cargo test --target "$HOST" --target-dir target/asan -p diesel-sqlite-efs --lib -- \
    --test-threads 2 vfs:: connection:: --skip properties --skip reference "$@"
