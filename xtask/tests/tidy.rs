//! The house rules that a compiler does not see: who may depend on whom, that
//! every error code has its page, and what no file may contain. It reads the
//! files that git knows, so run `git add` before trusting it with a new one.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::workspace::{cargo, output, root};

/// Each crate and which of ours it may depend on, as ARCHITECTURE.md draws it.
/// A crate that is not here may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("store", &["domain"]),
    ("valkey", &["domain"]),
    ("outbound", &["domain"]),
    ("events", &["store", "domain"]),
    ("llm", &["outbound", "domain"]),
    ("mcp", &["outbound", "domain"]),
    ("graph", &["store", "llm", "domain"]),
    ("engine", &["store", "events", "graph", "llm", "mcp", "outbound", "domain"]),
    ("gateway", &["domain", "outbound"]),
    ("api", &["engine", "events", "gateway", "domain"]),
    (
        "agentry",
        &[
            "domain", "store", "events", "valkey", "outbound", "llm", "mcp", "graph", "engine",
            "gateway", "api", "lab",
        ],
    ),
    ("lab", &[]),
    ("testkit", &["domain", "lab"]),
    ("xtask", &[]),
];

/// What comes from outside and may be used in few places only.
const CONFINED: &[(&str, &[&str])] = &[
    ("axum", &["gateway", "api", "testkit", "agentry"]),
    ("rusqlite", &["store"]),
    ("refinery", &["store"]),
    ("deadpool-postgres", &["store"]),
    ("tokio-postgres-rustls", &["store"]),
    ("tokio-postgres", &["store", "testkit"]),
    ("redis", &["valkey"]),
    ("reqwest", &["outbound"]),
    ("clap", &["agentry", "lab", "xtask"]),
];

/// A package of the workspace and its normal and build dependencies; our own
/// packages go by the name of their directory.
struct Package {
    name: String,
    manifest: PathBuf,
    dependencies: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: serde_json::Value = serde_json::from_str(&output(&mut command).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let ours = |name: &str| name.strip_prefix("agentry-").unwrap_or(name).to_owned();
    let packages: Vec<Package> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Package {
            name: ours(&text(&package["name"])),
            manifest: PathBuf::from(text(&package["manifest_path"])),
            dependencies: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| ours(&text(&dependency["name"])))
                .collect(),
        })
        .collect();
    assert!(packages.len() > 5, "cargo metadata shows too little");
    packages
}

/// The text files that git tracks and that are there, by path from the root.
fn files() -> BTreeMap<PathBuf, String> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z"]).current_dir(root());
    let listed = output(&mut command).unwrap();
    let files: BTreeMap<PathBuf, String> = listed
        .split('\0')
        .filter(|path| !path.is_empty())
        .filter_map(|path| {
            let text = String::from_utf8(std::fs::read(root().join(path)).ok()?).ok()?;
            Some((PathBuf::from(path), text))
        })
        .collect();
    assert!(files.len() > 20, "git ls-files shows too little");
    files
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn dependencies_follow_the_arrows() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages() {
        let Some(allowed) = arrows.get(package.name.as_str()) else {
            faults.push(format!("{} is not in ARROWS", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            if arrows.contains_key(dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{} may not depend on {dependency}", package.name));
            }
        }
    }
    none(&faults);
}

#[test]
fn confined_crates_stay_where_they_belong() {
    let mut faults = Vec::new();
    for package in packages() {
        for (confined, homes) in CONFINED {
            if package.dependencies.contains(*confined) && !homes.contains(&package.name.as_str()) {
                faults.push(format!("{confined} belongs in {homes:?}, not in {}", package.name));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_package_takes_the_workspace_lints_and_its_directory_name() {
    let mut faults = Vec::new();
    for Package { name, manifest, .. } in packages() {
        let text = std::fs::read_to_string(&manifest).unwrap();
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("{name} does not take the workspace's lints"));
        }
        if !manifest.parent().unwrap().ends_with(&name) {
            faults.push(format!("{name} is not named after {}", manifest.display()));
        }
    }
    none(&faults);
}

/// The codes that the `codes!` list of the domain's error declares.
fn declared_codes() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("crates/domain/src/error.rs")).unwrap();
    let list = text.split("\ncodes! {\n").nth(1).unwrap().split("\n}\n").next().unwrap();
    let codes: BTreeSet<String> = list
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter_map(|line| line.split_once(" = \"")?.1.split_once('"'))
        .map(|(code, _)| code.to_owned())
        .collect();
    assert!(codes.contains("not_found") && codes.contains("internal"), "the list has moved");
    codes
}

#[test]
fn every_error_code_has_a_page_and_every_page_a_code() {
    let dir = root().join("docs/errors");
    let pages: BTreeSet<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut faults = Vec::new();
    for code in declared_codes() {
        let page = std::fs::read_to_string(dir.join(format!("{code}.md"))).unwrap_or_default();
        if !page.starts_with(&format!("# {code}\n")) {
            faults
                .push(format!("docs/errors/{code}.md is missing or does not begin with # {code}"));
        }
        for part in ["\n## What happened\n", "\n## What to do\n"] {
            if !page.contains(part) {
                faults.push(format!("docs/errors/{code}.md has no part{}", part.trim_end()));
            }
        }
    }
    for page in pages.difference(&declared_codes()) {
        faults.push(format!("docs/errors/{page}.md is the page of no code"));
    }
    none(&faults);
}

#[test]
fn rust_files_begin_by_saying_what_they_are() {
    let mut faults = Vec::new();
    for (path, text) in files() {
        let in_tests = path.components().any(|part| part.as_os_str() == "tests");
        let below_tests = in_tests && path.parent().is_some_and(|dir| !dir.ends_with("tests"));
        // The tests of a file, moved out of it; the file's own header speaks for both.
        let submodule = below_tests || path.ends_with("tests.rs");
        if is_rust(&path) && !submodule && !text.starts_with("//! ") {
            faults.push(format!("{} does not start with //!", path.display()));
        }
    }
    none(&faults);
}

#[test]
fn rust_files_hold_nothing_unfinished_or_stray() {
    // Taken apart here so that this file does not hold them itself.
    let unfinished =
        [concat!("todo", "!("), concat!("FIX", "ME"), concat!("TO", "DO"), concat!("#[", "ignore")];
    let mut faults = Vec::new();
    for (path, text) in files() {
        if !is_rust(&path) {
            continue;
        }
        for (line, text) in (1..).zip(text.lines()) {
            let at = format!("{}:{line}", path.display());
            if text.contains('\t') || text.ends_with(' ') {
                faults.push(format!("{at}: a tab or white space at the end"));
            }
            for word in unfinished.iter().filter(|word| text.contains(**word)) {
                faults.push(format!("{at}: {word}"));
            }
        }
    }
    none(&faults);
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    let machine = [concat!("/", "work/"), concat!("/", "home/"), concat!("/", "root/")];
    let mut faults = Vec::new();
    for (path, text) in files() {
        for (line, text) in (1..).zip(text.lines()) {
            for dir in machine {
                // A path of the repository may go through such a name; an
                // absolute one has no name before it.
                let absolute = text.match_indices(dir).any(|(at, _)| {
                    !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*".contains(c))
                });
                if absolute {
                    faults.push(format!("{}:{line}: {dir}", path.display()));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn the_lock_file_names_the_public_registry_alone() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let registry = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let strangers: Vec<String> = lock
        .lines()
        .filter(|line| line.starts_with("source = ") && *line != registry)
        .map(str::to_owned)
        .collect();
    none(&strangers);
}
