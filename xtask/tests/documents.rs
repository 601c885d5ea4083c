//! The documents say what is so: paths and links lead somewhere, commands exist, configurations load and are the real
//! ones, the generated page is up to date.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use viaduct_model::Source;
use xtask::{reference, root};

/// A page with its place.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, text }
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// The blocks of code in a language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines();
        let start = format!("```{language}");
        while let Some(line) = lines.next() {
            if line == start {
                blocks.push(lines.by_ref().take_while(|l| *l != "```").map(|l| format!("{l}\n")).collect());
            } else if line.starts_with("```") {
                lines.by_ref().find(|l| *l == "```");
            }
        }
        blocks
    }

    /// What stands between backticks in running text.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut in_block = false;
        for paragraph in self.text.split("\n\n") {
            let was_in_block = in_block;
            in_block ^= paragraph.lines().filter(|line| line.starts_with("```")).count() % 2 == 1;
            if !was_in_block && !paragraph.contains("```") {
                words.extend(paragraph.split('`').skip(1).step_by(2).map(|w| w.replace('\n', " ")));
            }
        }
        words
    }

    /// Where its links lead, and its pictures.
    fn links(&self) -> Vec<String> {
        let targets = self.text.split("](").skip(1);
        targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }
}

fn pages() -> Vec<Page> {
    let mut pages: Vec<Page> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|p| Page::read(root().join(p))).into();
    for directory in ["docs", "docs/decisions", "crates/lab", "examples"] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        pages.extend(files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "md")).map(Page::read));
    }
    assert!(pages.len() > 10, "where are the documents?");
    pages
}

fn readme() -> Page {
    Page::read(root().join("README.md"))
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or_default();
            let target = page.path.parent().unwrap().join(file);
            assert!(target.exists(), "{}: the link {link} leads nowhere", page.name());
        }
    }
}

#[test]
fn paths_in_text_exist() {
    let top: BTreeSet<String> =
        ["crates/", "docs/", "examples/", "xtask/", "scripts/", ".ci/"].map(str::to_owned).into();
    let mut seen = 0;
    for page in pages() {
        for word in page.words().into_iter().filter(|word| top.iter().any(|t| word.starts_with(t.as_str()))) {
            seen += 1;
            if let Some((before, after)) = word.split_once('*') {
                let found = fs::read_dir(root().join(before)).unwrap().map(|entry| entry.unwrap().path());
                let found = found.filter(|path| path.join(after.trim_start_matches('/')).exists()).count();
                assert!(found > 0, "{}: there is nothing like {word}", page.name());
            } else {
                assert!(root().join(&word).exists(), "{}: there is no {word}", page.name());
            }
        }
    }
    assert!(seen > 0);
}

#[test]
fn commands_of_the_workspace_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let xtask = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    let mut seen = 0;
    for page in pages() {
        let lines = page.blocks("sh").concat();
        let commands = page.words().into_iter().chain(lines.lines().map(str::to_owned));
        for command in commands {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words[..] {
                ["make", target, ..] => {
                    assert!(makefile.contains(&format!("\n{target}:")), "{}: make {target}", page.name());
                }
                ["cargo", "xtask", task, ..] => {
                    assert!(xtask.contains(&format!("[\"{task}\"]")), "{}: cargo xtask {task}", page.name());
                }
                _ => continue,
            }
            seen += 1;
        }
    }
    assert!(seen > 4);
}

#[test]
fn configurations_in_the_readme_load_and_are_the_real_ones() {
    let readme = readme();
    let blocks = readme.blocks("toml");
    let examples = ["examples/openvz/viaduct.toml", "examples/xen-vnet/hosta.toml"];
    assert_eq!(blocks.len(), examples.len());
    for (block, example) in blocks.iter().zip(examples) {
        assert!(readme.text.contains(example));
        let source = Source { name: "README.md".to_owned(), text: block.clone() };
        if let Err(wrong) = viaduct_model::load(&[source]) {
            panic!("{wrong}\n{block}");
        }
        assert_is_part(block, &fs::read_to_string(root().join(example)).unwrap());
    }
}

/// Whether a text's lines are all in another one, in the same order; but for comments.
fn assert_is_part(part: &str, whole: &str) {
    let lines = |text: &str| -> Vec<String> {
        let bare = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
        bare.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    let whole = lines(whole);
    let mut rest = whole.iter();
    for line in lines(part) {
        assert!(rest.any(|other| *other == line), "the example has no `{line}` there");
    }
}

#[test]
fn every_example_loads() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        for file in toml_files(&path) {
            let source =
                Source { name: file.display().to_string(), text: fs::read_to_string(&file).unwrap() };
            if let Err(wrong) = viaduct_model::load(&[source]) {
                panic!("{wrong}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

/// The configurations of an example: every TOML file but the one about its surroundings.
fn toml_files(directory: &Path) -> Vec<PathBuf> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let toml = files.filter(|f| f.extension().is_some_and(|e| e == "toml"));
    toml.filter(|f| f.file_name().is_some_and(|name| name != "lab.toml")).collect()
}

#[test]
fn the_reference_is_up_to_date() {
    let kept = fs::read_to_string(root().join(reference::PATH)).unwrap();
    assert_eq!(kept, reference::render(&viaduct_model::schema()), "`cargo xtask docs` writes it anew");
}

#[test]
fn decisions_are_numbered_and_short() {
    let mut names: Vec<String> = fs::read_dir(root().join("docs/decisions"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for (name, number) in names.iter().zip(1..) {
        assert!(name.starts_with(&format!("{number:04}-")), "{name} should be number {number}");
        let text = fs::read_to_string(root().join("docs/decisions").join(name)).unwrap();
        assert!(text.starts_with(&format!("# {number}. ")), "{name}: its title has another number");
        assert!(text.lines().count() <= 40, "{name} is too long");
        for part in ["**Context.**", "**Decision.**", "**Consequences.**"] {
            assert!(text.contains(part), "{name} has no {part}");
        }
    }
}
