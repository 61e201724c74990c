#!/usr/bin/env bash
# The tests of the unsafe code and of what calls it, under valgrind: expect "0 errors". Takes a minute.
# Needs valgrind. Property tests are left out; they only repeat the same calls.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(cargo test -p diesel-sqlite-efs --lib --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["executable"])')
cd diesel-sqlite-efs
exec valgrind --error-exitcode=9 --errors-for-leak-kinds=none "$binary" \
    --test-threads 1 vfs:: connection:: --skip properties --skip reference "$@"
