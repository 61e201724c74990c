//! What of a database and its journal is on the disk, and what a crash may leave.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::On;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What becomes of what was not synced: written data, and names that were created or removed
/// without a sync of their directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All of it is gone: the machine is.
    LosesUnsynced,
    /// All of it stays: only the process is gone.
    KeepsAll,
    /// Each sector and each name as the seed says.
    Random(u64),
}

/// Both files, since they were found.
#[derive(Debug)]
pub(super) struct Disk {
    main: FileOnDisk,
    journal: FileOnDisk,
}

#[derive(Debug)]
struct FileOnDisk {
    path: PathBuf,
    /// What a crash cannot take away; `None`: not even the name.
    synced: Option<Vec<u8>>,
    unsynced: Vec<Change>,
    /// The name is there now.
    exists: bool,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Disk {
    pub(super) fn found(database: &Path) -> Self {
        let mut journal = database.as_os_str().to_owned();
        journal.push("-journal");
        Self {
            main: FileOnDisk::found(database.to_owned()),
            journal: FileOnDisk::found(journal.into()),
        }
    }

    pub(super) fn created(&mut self, on: On) {
        let file = self.file(on);
        // What stood there before was removed by the crate itself, which syncs the directory.
        file.synced = None;
        file.unsynced.clear();
        file.exists = true;
    }

    pub(super) fn wrote(&mut self, on: On, offset: usize, data: &[u8]) {
        let change = Change::Write(offset, data.to_owned());
        self.file(on).unsynced.push(change);
    }

    pub(super) fn truncated(&mut self, on: On, size: usize) {
        self.file(on).unsynced.push(Change::Truncate(size));
    }

    /// SQLite's `unix` VFS syncs the directory with the first sync of a file that it has created.
    pub(super) fn synced(&mut self, on: On) {
        let file = self.file(on);
        let content = file.synced.get_or_insert_default();
        for change in file.unsynced.drain(..) {
            change.apply(content);
        }
    }

    pub(super) fn deleted(&mut self, with_directory: bool) {
        let journal = &mut self.journal;
        journal.exists = false;
        if with_directory {
            journal.synced = None;
            journal.unsynced.clear();
        }
    }

    /// Rewrites the files.
    pub(super) fn crash(&mut self, leaves: Crash) {
        let mut random = match leaves {
            Crash::KeepsAll => return,
            Crash::LosesUnsynced => None,
            Crash::Random(seed) => Some(Random(seed)),
        };
        self.main.crash(&mut random);
        self.journal.crash(&mut random);
    }

    fn file(&mut self, on: On) -> &mut FileOnDisk {
        match on {
            On::Main => &mut self.main,
            On::Journal => &mut self.journal,
        }
    }
}

impl FileOnDisk {
    fn found(path: PathBuf) -> Self {
        let synced = match fs::read(&path) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        Self {
            exists: synced.is_some(),
            path,
            synced,
            unsynced: Vec::new(),
        }
    }

    fn crash(&mut self, random: &mut Option<Random>) {
        if self.exists && !self.path.exists() {
            // The crate has removed it itself, and has synced the directory.
            return;
        }
        let mut keep = || random.as_mut().is_some_and(Random::coin);
        let left = if self.exists {
            match self.synced.take() {
                Some(content) => Some(content),
                None => keep().then(Vec::new),
            }
        } else {
            // Its removal may not have reached the disk.
            self.synced.take().filter(|_| !keep())
        };
        let left = left.map(|mut content| {
            for change in &self.unsynced {
                change.apply_partly(&mut content, &mut keep);
            }
            content
        });
        let result = match left {
            Some(content) => fs::write(&self.path, content),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        result.unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        self.apply_partly(content, &mut || true);
    }

    fn apply_partly(&self, content: &mut Vec<u8>, keep: &mut dyn FnMut() -> bool) {
        match self {
            Self::Truncate(size) => {
                if keep() {
                    content.truncate(*size);
                }
            }
            Self::Write(offset, data) => {
                let mut begin = 0;
                while begin < data.len() {
                    let at = offset + begin;
                    let end = data.len().min(begin + SECTOR - at % SECTOR);
                    if keep() {
                        let until = offset + end;
                        if content.len() < until {
                            content.resize(until, 0);
                        }
                        content[at..until].copy_from_slice(&data[begin..end]);
                    }
                    begin = end;
                }
            }
        }
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}
