//! The workspace is as ARCHITECTURE.md says: who uses whom, what is pure, what may be unsafe; and no file grows beyond
//! what one can keep in mind.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use xtask::{
    architecture::{Row, table},
    root,
};

/// What a pure crate has no use for, whatever it offers besides. A `*` at the end stands for anything.
const IMPURE: [&str; 26] = [
    "async-std",
    "chrono",
    "dirs",
    "getrandom",
    "home",
    "hyper",
    "jiff",
    "libc",
    "memmap2",
    "mio",
    "netlink-*",
    "nix",
    "num_cpus",
    "quinn*",
    "rand",
    "reqwest",
    "rtnetlink",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tokio-*",
    "tracing-subscriber",
    "walkdir",
];

const LONGEST_FILE: usize = 600;

struct Package {
    name: String,
    directory: PathBuf,
    /// Its dependencies in this workspace; whether only its tests use it.
    inside: Vec<(String, bool)>,
    /// Those from elsewhere that it is built with.
    outside: Vec<String>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let dependencies = value["dependencies"].as_array().unwrap();
    let (inside, outside): (Vec<_>, Vec<_>) = dependencies.iter().partition(|d| d["path"].is_string());
    let for_tests = |d: &Value| d["kind"] == "dev";
    Package {
        name: text(&value["name"]),
        directory: Path::new(value["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned(),
        inside: inside.into_iter().map(|d| (text(&d["name"]), for_tests(d))).collect(),
        outside: outside.into_iter().filter(|d| !for_tests(d)).map(|d| text(&d["name"])).collect(),
    }
}

fn rows() -> Vec<Row> {
    table(&fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()).unwrap()
}

/// Each package with its row.
fn packages_and_rows() -> Vec<(Package, Row)> {
    let mut rows: BTreeMap<String, Row> = rows().into_iter().map(|row| (row.name.clone(), row)).collect();
    let row_of = |package: Package| {
        let row = rows.remove(&package.name);
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {}", package.name));
        (package, row)
    };
    packages().into_iter().map(row_of).collect()
}

#[test]
fn every_row_is_a_crate_and_names_only_rows_below() {
    let rows = rows();
    let mut packages: Vec<String> = packages().into_iter().map(|p| p.name).collect();
    let mut names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    for (row, below) in rows.iter().zip(1..).map(|(row, next)| (row, &names[next..])) {
        for used in &row.may_use {
            assert!(below.contains(used), "{} may use {used}, which is no row below it", row.name);
        }
    }
    names.sort();
    packages.sort();
    assert_eq!(names, packages);
}

#[test]
fn crates_use_only_what_they_may() {
    for (package, row) in packages_and_rows() {
        for (used, _) in package.inside.iter().filter(|(_, for_tests)| !for_tests) {
            assert!(
                row.may_use.contains(used),
                "{} depends on {used}, and ARCHITECTURE.md does not let it",
                row.name
            );
        }
    }
}

/// Tests may look further than what they test, but not upwards.
#[test]
fn tests_use_only_what_is_below() {
    let order: Vec<String> = rows().into_iter().map(|row| row.name).collect();
    let place = |name: &str| order.iter().position(|other| other == name).unwrap();
    for (package, _) in packages_and_rows() {
        for (used, _) in &package.inside {
            assert!(
                place(used) >= place(&package.name),
                "{} depends on {used}, which is above it",
                package.name
            );
        }
    }
}

#[test]
fn pure_crates_stay_pure() {
    let lists = fs::read_to_string(root().join("crates/types/clippy.toml")).unwrap();
    for (package, row) in packages_and_rows().into_iter().filter(|(_, row)| row.pure) {
        let is_impure = |name: &&String| {
            IMPURE.iter().any(|impure| match impure.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => impure == name,
            })
        };
        let impure: Vec<&String> = package.outside.iter().filter(is_impure).collect();
        assert!(impure.is_empty(), "{} is pure and depends on {impure:?}", package.name);
        let list = fs::read_to_string(package.directory.join("clippy.toml")).unwrap_or_default();
        assert_eq!(list, lists, "{}: link clippy.toml to that of crates/types", package.name);
        assert!(!row.may_be_unsafe, "{} is pure and may be unsafe", package.name);
    }
}

#[test]
fn unsafe_is_forbidden_where_it_may_not_be() {
    for (package, _) in packages_and_rows().into_iter().filter(|(_, row)| !row.may_be_unsafe) {
        let roots = ["src/lib.rs", "src/main.rs"].map(|file| package.directory.join(file));
        for file in roots.iter().filter(|file| file.exists()) {
            let text = fs::read_to_string(file).unwrap();
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} does not forbid unsafe code",
                file.display()
            );
        }
    }
}

#[test]
fn every_crate_has_the_workspace_s_lints() {
    for package in packages() {
        let manifest = fs::read_to_string(package.directory.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package.name);
    }
}

#[test]
fn no_file_is_too_long() {
    let mut files = Vec::new();
    for directory in ["crates", "xtask"] {
        rust_files(&root().join(directory), &mut files);
    }
    assert!(files.len() > 50, "where are the files?");
    let long: Vec<String> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(file, lines)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "look for the second responsibility in\n{}", long.join("\n"));
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
