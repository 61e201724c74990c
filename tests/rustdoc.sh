#!/usr/bin/env bash
# The stable rustdoc with nightly's abilities, for RUSTDOC: it compares the numbers of compile_fail's errors.
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"
