#!/usr/bin/env bash
# Stands for rustdoc where check.sh lets cargo document the workspace: writes JSON about the library as users
# see it, without the feature `testing`, and skips all other crates. RUSTC_BOOTSTRAP, by which the stable
# rustdoc takes these options, is not set for cargo: build scripts look at it, and their crates would be
# built again.
set -euo pipefail

[[ " $* " == *" --crate-name diesel_sqlite_efs "* ]] || exit 0
arguments=()
for argument in "$@"; do
    if [[ $argument == 'feature="testing"' ]]; then
        unset 'arguments[-1]' # --cfg
    else
        arguments+=("$argument")
    fi
done
RUSTC_BOOTSTRAP=1 exec rustdoc "${arguments[@]}"
