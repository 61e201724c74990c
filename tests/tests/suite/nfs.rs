//! The same promises on a real NFSv4.1 mount with independent clients, and what plain SQLite and the
//! Python package do there. By hand: it needs a rig of virtual machines, and takes more than an hour
//! under software emulation; `nfs::ours` alone is what has to hold.
//!
//! ```sh
//! EFS_TESTS_NFS_RIG=path/to/rig cargo test -p integration --test suite -- --ignored --nocapture \
//!     --test-threads=1 nfs::
//! ```
//!
//! The rig is a program with these commands, and hosts `A` and `B` (NFS clients that share a
//! kernel), `C` (a client in a virtual machine of its own) and `S` (the server), which all have the
//! same export mounted at `/mnt/efs` (`/export` on `S`), a directory `/work` for notes, and `strace`
//! and Python 3.10 or newer, and reach this host's loopback interface as `10.0.2.2`:
//! `put [-m MODE] FILE HOST:PATH`;
//! `exec [-i] [-t SECONDS] [-b LOG] [-e NAME=VALUE].. HOST PROGRAM ARGUMENT..` (a single word is a
//! shell's line; with `-b` it goes on by itself); `mount HOST DIRECTORY OPTIONS`; `freeze HOST` and
//! `thaw HOST` (all its processes stand still and the wire is cut; for `C` the whole machine, whose
//! clocks then stand still, too); `net HOST down|up`; `nfsd restart`. The server's NFS lease is 10 s.

mod beside;
mod ours;
mod rig;
mod round_trips;
