//! The crate's layers: modules import those below them, and no two files import each other.
//!
//! Read from the sources: every `use` and every other path that begins with `crate`, `self` or
//! `super`. A name that a module only re-exports counts as that of the file that defines it. Code
//! for tests is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// The crate's top modules, from the bottom up, as `docs/design.md` draws them: each imports only
/// those before it.
const LAYERS: [&str; 11] = [
    "clock",
    "error",
    "telemetry",
    "store",
    "config",
    "lease",
    "files",
    "write_lock",
    "vfs",
    "connection",
    "admin",
];

#[test]
fn modules_import_only_those_below_them() {
    let sources = Sources::read();
    let layer = |module: &str| {
        let top = module.split("::").next().unwrap_or_default();
        LAYERS.iter().position(|layer| *layer == top)
    };
    let mut wrong = String::new();
    for (from, to) in sources.imports() {
        // The root and what is for tests alone may see all.
        let Some(own) = layer(&from) else { continue };
        match layer(&to) {
            Some(other) if other <= own => {}
            _ => writeln!(wrong, "{from} imports {to}").expect("memory"),
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn every_top_module_is_a_layer() {
    /// For an application's tests, and for the documentation's.
    const FOR_TESTS: [&str; 2] = ["testing", "misuse"];
    let known: BTreeSet<_> = LAYERS.into_iter().collect();
    let sources = Sources::read();
    let tops = sources.modules.keys().filter(|module| !module.is_empty());
    let tops: BTreeSet<_> = tops
        .filter_map(|module| module.split("::").next())
        .collect();
    let tops: BTreeSet<_> = tops
        .into_iter()
        .filter(|top| !FOR_TESTS.contains(top))
        .collect();
    assert_eq!(tops, known);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = Sources::read();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in sources.imports() {
        graph.entry(from).or_default().insert(to);
    }
    // What nothing imports, or what imports nothing, is on no circle; nor is what then is left so.
    loop {
        let imported: BTreeSet<String> = graph.values().flatten().cloned().collect();
        let importing: BTreeSet<String> = graph.keys().cloned().collect();
        let edges = |graph: &BTreeMap<String, BTreeSet<String>>| -> usize {
            graph.values().map(BTreeSet::len).sum()
        };
        let before = edges(&graph);
        graph.retain(|file, _| imported.contains(file));
        for imports in graph.values_mut() {
            imports.retain(|import| importing.contains(import));
        }
        graph.retain(|_, imports| !imports.is_empty());
        if edges(&graph) == before {
            break;
        }
    }
    assert_eq!(
        graph,
        BTreeMap::new(),
        "each of these is on a circle, or between two"
    );
}

#[test]
fn the_design_names_the_layers_from_the_top_down() {
    let design = fs::read_to_string(root().join("docs/design.md")).expect("docs/design.md");
    let section = design
        .split("\n## Layers\n")
        .nth(1)
        .expect("a section on layers");
    let section = section.split("\n## ").next().unwrap_or_default();
    let named: Vec<&str> = (section.lines())
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(|name| name.trim_end_matches(".rs").trim_end_matches('/'))
        .collect();
    let top_down: Vec<&str> = LAYERS.into_iter().rev().collect();
    assert_eq!(named, top_down);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crate's modules, by their paths; the root's is empty.
struct Sources {
    modules: BTreeMap<String, String>,
}

impl Sources {
    fn read() -> Self {
        let mut modules = BTreeMap::new();
        let directory = root().join("diesel-sqlite-efs/src");
        read_into(&mut modules, &directory, "");
        assert!(modules.len() > 40, "they are not where they were");
        Self { modules }
    }

    /// Which file imports which, by their modules' paths.
    fn imports(&self) -> BTreeSet<(String, String)> {
        let mut imports = BTreeSet::new();
        for (module, text) in &self.modules {
            for path in paths(module, text) {
                if let Some(target) = self.definer(&path)
                    && target != *module
                {
                    imports.insert((module.clone(), target));
                }
            }
        }
        imports
    }

    /// The module that defines what a path leads to.
    fn definer(&self, path: &[String]) -> Option<String> {
        let depth = (0..=path.len()).rev();
        let (module, rest) = depth
            .map(|depth| (path[..depth].join("::"), &path[depth..]))
            .find(|(module, _)| self.modules.contains_key(module))?;
        let Some(name) = rest.first() else {
            return Some(module);
        };
        let text = &self.modules[&module];
        let mut re_exported = (paths(&module, text).into_iter())
            .filter(|path| path.len() > 1 && path.last() == Some(name))
            .filter(|path| path[..path.len() - 1].join("::") != module);
        match re_exported.next() {
            Some(path) if !defines(text, name) => self.definer(&path),
            _ => Some(module),
        }
    }
}

/// Whether the name is defined there, and not only imported.
fn defines(text: &str, name: &str) -> bool {
    let kinds = [
        "struct",
        "enum",
        "trait",
        "fn",
        "const",
        "static",
        "type",
        "macro_rules!",
    ];
    kinds.iter().any(|kind| {
        text.match_indices(&format!("{kind} {name}"))
            .any(|(at, found)| {
                let after = text[at + found.len()..].chars().next();
                after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
            })
    })
}

fn read_into(modules: &mut BTreeMap<String, String>, directory: &Path, module: &str) {
    for entry in fs::read_dir(directory).expect("sources") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name == "tests" {
            continue;
        }
        if path.is_dir() {
            read_into(modules, &path, &below(module, &name));
            continue;
        }
        let is_for_tests = ["tests", "properties", "reference"].contains(&&*name);
        if is_for_tests || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let module = match &*name {
            "lib" => String::new(),
            "mod" => module.to_owned(),
            name => below(module, name),
        };
        modules.insert(module, text);
    }
}

fn below(module: &str, name: &str) -> String {
    match module {
        "" => name.to_owned(),
        module => format!("{module}::{name}"),
    }
}

/// The paths in a module's text that begin in this crate, from its root.
fn paths(module: &str, text: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            for path in expanded(&text[at..]) {
                found.extend(absolute(module, &path));
            }
        }
    }
    found
}

/// What a path or a tree of `use` stands for, each part by part.
fn expanded(text: &str) -> Vec<Vec<String>> {
    let name: String = (text.chars())
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let rest = &text[name.len()..];
    let Some(rest) = rest.strip_prefix("::") else {
        return vec![vec![name]];
    };
    let branches = match rest.strip_prefix('{') {
        None => expanded(rest),
        Some(list) => parts(list).iter().flat_map(|part| expanded(part)).collect(),
    };
    let prefixed = branches.into_iter().map(|branch| {
        let branch = branch
            .into_iter()
            .filter(|name| name != "self" && !name.is_empty());
        [name.clone()].into_iter().chain(branch).collect()
    });
    prefixed.collect()
}

/// The parts of a list in braces, up to its end.
fn parts(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(list[start..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// From the crate's root; `None` if it leads out of the crate.
fn absolute(module: &str, path: &[String]) -> Option<Vec<String>> {
    let mut from: Vec<String> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => module
            .split("::")
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(from.pop()?),
            name => from.push(name.to_owned()),
        }
    }
    Some(from)
}
