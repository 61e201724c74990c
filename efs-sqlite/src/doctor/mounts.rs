//! The file system that the database is on, and how it is mounted.

use std::path::{Path, PathBuf};

use crate::output::{Finding, Level};

const NAME: &str = "file system";

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    kind: String,
    source: String,
    /// Those of the mount, then those of the file system.
    options: Vec<String>,
}

/// Examines the file system that holds `path`, links resolved; `network` is its kind if several
/// hosts may share it.
pub(super) fn examine(path: Option<&Path>, network: Option<&str>, is_local_lock: bool) -> Finding {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mount = path.and_then(|path| Mount::of(&String::from_utf8_lossy(&mounts), path));
    judge(mount.as_ref(), network, is_local_lock)
}

impl Mount {
    /// The mount that is visible at `path`: the last one among those with the longest mount point.
    fn of(mountinfo: &str, path: &Path) -> Option<Self> {
        (mountinfo.lines().filter_map(Self::parse))
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }

    /// `36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, options) = (mount.next()?, mount.next()?);
        let mut parts = file_system.split(' ');
        let (kind, source) = (parts.next()?, parts.next()?);
        let mut options: Vec<_> = options.split(',').map(str::to_owned).collect();
        for option in parts.next().unwrap_or_default().split(',') {
            if !option.is_empty() && !options.iter().any(|known| known == option) {
                options.push(option.to_owned());
            }
        }
        Some(Self {
            point: unescaped(point).into(),
            kind: kind.to_owned(),
            source: unescaped(source),
            options,
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut options = self.options.iter();
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Decodes spaces and the like, which are written as `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

fn judge(mount: Option<&Mount>, network: Option<&str>, is_local_lock: bool) -> Finding {
    let mut judgement = Judgement::default();
    if is_local_lock && network.is_some() {
        judgement.add(
            Level::Failure,
            "`lock=local` is refused on it, because other hosts may write",
            "set a lock table",
        );
    }
    let facts = match mount {
        Some(mount) => {
            judgement.options(mount, network);
            format!(
                "{} on {} ({}), {}",
                mount.kind,
                mount.point.display(),
                mount.source,
                mount.options.join(",")
            )
        }
        None => format!(
            "{}; its mount options are not known",
            network.unwrap_or("local")
        ),
    };
    judgement.finding(facts)
}

/// The problems of a mount.
#[derive(Debug, Default)]
struct Judgement(Vec<(Level, String, &'static str)>);

impl Judgement {
    fn add(&mut self, level: Level, problem: impl Into<String>, remedy: &'static str) {
        self.0.push((level, problem.into(), remedy));
    }

    fn options(&mut self, mount: &Mount, network: Option<&str>) {
        if mount.has("ro") {
            let remedy = "mount it without `ro` (on EFS, allow elasticfilesystem:ClientWrite)";
            self.add(Level::Failure, "mounted for reading only", remedy);
        }
        match network {
            None => {}
            Some("nfs") => self.nfs(mount),
            Some("smb") => {
                if mount.has("nobrl") {
                    let problem = "`nobrl` keeps file locks from other hosts";
                    self.add(Level::Failure, problem, "mount it without `nobrl`");
                }
                self.untried("SMB");
            }
            Some("fuse") => self.add(
                Level::Warning,
                "what its locks and caches promise is not known, so each read asks the server",
                "use NFS (EFS) where other hosts write",
            ),
            Some(_) => self.untried("this file system"),
        }
    }

    fn untried(&mut self, what: &str) {
        let problem = format!("{what} has not been tried; reads are made past its caches");
        self.add(
            Level::Warning,
            problem,
            "use NFS (EFS) where other hosts write",
        );
    }

    /// The options that AWS recommends for EFS
    /// (<https://docs.aws.amazon.com/efs/latest/ug/mounting-fs-nfs-mount-settings.html>).
    fn nfs(&mut self, mount: &Mount) {
        let version = mount.value("vers").unwrap_or_default();
        if !version.starts_with('4') {
            let problem = format!("NFS version `{version}`: its locks are a protocol of their own");
            self.add(Level::Warning, problem, "mount it with `nfsvers=4.1`");
        }
        let local = mount.value("local_lock").filter(|locks| *locks != "none");
        if mount.has("nolock") || local.is_some() {
            self.add(
                Level::Failure,
                "file locks stay on this host (`nolock` or `local_lock`)",
                "mount it without these options",
            );
        }
        if mount.has("soft") || mount.has("softerr") {
            self.add(
                Level::Warning,
                "`soft` makes a slow server an I/O error in the middle of a transaction",
                "mount it with `hard`",
            );
        }
        // Amazon's mount helper connects through a port of this host.
        let is_efs = mount.source.contains(".efs.") || mount.source.starts_with("127.0.0.1:");
        if is_efs && !mount.has("noresvport") {
            self.add(
                Level::Warning,
                "without `noresvport` the mount may hang after a network interruption",
                "mount it with `noresvport`, as the EFS mount helper does",
            );
        }
    }

    fn finding(self, facts: String) -> Finding {
        let Some(level) = self.0.iter().map(|(level, ..)| *level).max() else {
            return Finding::ok(NAME, facts);
        };
        let mut text = facts;
        let mut remedies = Vec::new();
        for (_, problem, remedy) in self.0 {
            text.push_str("; ");
            text.push_str(&problem);
            remedies.push(remedy);
        }
        Finding {
            level,
            ..Finding::warning(NAME, text, remedies.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:44 / /mnt/efs rw,relatime shared:2 - nfs4 fs-1.efs.eu-west-1.amazonaws.com:/ rw,vers=4.1,rsize=1048576,hard,noresvport,proto=tcp,local_lock=none
41 22 0:45 / /mnt/efs\\040old ro,relatime - nfs4 10.0.0.1:/ rw,vers=3,soft,nolock,local_lock=all
42 40 0:46 / /mnt/efs/sub rw - fuse.sshfs host: rw,user_id=0
garbage
";

    fn at(path: &str) -> Mount {
        Mount::of(MOUNTS, Path::new(path)).expect("a mount")
    }

    #[test]
    fn the_mount_is_the_one_nearest_to_the_file() {
        assert_eq!(at("/home/app.db").kind, "ext4");
        assert_eq!(
            at("/mnt/efs/app.db").source,
            "fs-1.efs.eu-west-1.amazonaws.com:/"
        );
        assert_eq!(at("/mnt/efs old/app.db").value("vers"), Some("3"));
        assert_eq!(at("/mnt/efs/sub/app.db").kind, "fuse.sshfs");
        assert_eq!(at("/mnt/efs2/app.db").kind, "ext4");
    }

    #[test]
    fn mount_options_are_judged_by_what_they_do_to_locks_and_errors() {
        let judged = |path: &str, network| judge(Some(&at(path)), network, false);
        assert_eq!(judged("/app.db", None).level, Level::Ok);
        assert_eq!(judged("/mnt/efs/app.db", Some("nfs")).level, Level::Ok);
        let bad = judged("/mnt/efs old/app.db", Some("nfs"));
        assert_eq!(bad.level, Level::Failure);
        for part in ["reading only", "version `3`", "stay on this host", "`soft`"] {
            assert!(bad.text.contains(part), "{part}: {}", bad.text);
        }
        assert_eq!(
            judged("/mnt/efs/sub/app.db", Some("fuse")).level,
            Level::Warning
        );
        assert_eq!(judge(None, Some("nfs"), true).level, Level::Failure);
        let mut efs = at("/mnt/efs/app.db");
        efs.options.retain(|option| option != "noresvport");
        assert_eq!(judge(Some(&efs), Some("nfs"), false).level, Level::Warning);
    }
}
