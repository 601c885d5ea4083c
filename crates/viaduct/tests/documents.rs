//! The program's commands and options that the documents name are there, and what it says about the configuration's
//! keys is what the documents say.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn viaduct(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_viaduct")).args(arguments).output().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The command lines of the program in a page, in blocks and between backticks.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let in_text = page.split('`').skip(1).step_by(2).map(|text| text.replace('\n', " "));
    let in_blocks = page.lines().map(str::to_owned);
    in_text
        .chain(in_blocks)
        .filter_map(|line| {
            let rest =
                line.strip_prefix("viaduct ").or_else(|| line.strip_prefix("target/release/viaduct "))?;
            let words = rest.split('#').next().unwrap_or_default().split_whitespace();
            Some(words.take_while(|word| *word != "--").map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn commands_in_the_documents_exist() {
    let mut seen = BTreeSet::new();
    for page in ["README.md", "CHANGELOG.md", "docs/configuration.md", "docs/lab.md", "docs/operation.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for words in command_lines(&text) {
            let command: Vec<&str> = words.iter().map(String::as_str).take_while(|w| is_command(w)).collect();
            // The key of this host is for vnets, which the reference describes as they are written.
            let Some(first) = command.first().filter(|first| **first != "identity") else { continue };
            if *first == "help" {
                continue;
            }
            // Of the words that could be a command's, as many as are.
            let help =
                (1..=command.len()).rev().map(|n| [&command[..n], &["--help"]].concat()).find_map(|line| {
                    let output = viaduct(&line);
                    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
                });
            let help = help.unwrap_or_else(|| panic!("{page}: there is no `viaduct {}`", words.join(" ")));
            for option in words.iter().filter(|w| w.starts_with("--")) {
                let option = option.trim_end_matches([',', ']']);
                assert!(help.contains(option), "{page}: `viaduct {first}` has no {option}");
            }
            seen.insert((*first).to_owned());
        }
    }
    for command in ["check", "plan", "apply", "attach", "set", "status", "down", "lab"] {
        assert!(seen.contains(command), "no document shows `viaduct {command}`; they show {seen:?}");
    }
}

fn is_command(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

#[test]
fn every_command_is_explained() {
    let help = String::from_utf8(viaduct(&["--help"]).stdout).unwrap();
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A description that goes on in the next line is further to the right.
    let commands = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let commands: Vec<&str> = commands.filter_map(|line| line.split(' ').next()).collect();
    assert!(commands.len() > 10, "{help}");
    let documents: String =
        ["README.md", "docs/configuration.md", "docs/lab.md", "docs/operation.md", "docs/vnets.md"]
            .map(|p| fs::read_to_string(root().join(p)).unwrap())
            .concat();
    for command in commands {
        let shown = [" ", "`", "\n"].iter().any(|end| documents.contains(&format!("viaduct {command}{end}")));
        assert!(
            shown || documents.contains(&format!("`{command}`")),
            "no document explains `viaduct {command}`"
        );
    }
}

#[test]
fn the_readme_s_configuration_is_right() {
    let directory = tempdir();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = directory.0.join("viaduct.toml");
    fs::write(&file, block).unwrap();
    let output = viaduct(&["check", file.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn man_pages_and_completions_are_made() {
    let directory = tempdir();
    assert!(viaduct(&["man", directory.0.to_str().unwrap()]).status.success());
    assert!(directory.0.join("viaduct.1").exists() && directory.0.join("viaduct-apply.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        let output = viaduct(&["completions", shell]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("attach"), "{shell}");
    }
}

/// A directory that goes when the test ends, however it ends.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Directory {
    let thread = std::thread::current();
    let name = format!("documents-{}-{}", std::process::id(), thread.name().unwrap_or_default());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path).unwrap();
    Directory(path)
}

#[test]
fn the_api_s_description_is_up_to_date() {
    let path = root().join("docs/openapi.json");
    let output = viaduct(&["schema", "--api"]);
    let (now, written) =
        (String::from_utf8(output.stdout).unwrap(), fs::read_to_string(&path).unwrap_or_default());
    assert!(now == written, "run `viaduct schema --api > docs/openapi.json`");
    let document: serde_json::Value = serde_json::from_str(&now).unwrap();
    let references: Vec<&str> =
        now.split("\"$ref\": \"#/").skip(1).filter_map(|r| r.split('"').next()).collect();
    assert!(references.len() > 20);
    for reference in references {
        assert!(document.pointer(&format!("/{reference}")).is_some(), "nothing at {reference}");
    }
}
