//! What is wrong with a configuration, for people ([`Diagnostics::render`]) and for programs (serde).

use std::{collections::BTreeSet, fmt, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// All problems found in one go, in order of file and position. As JSON: the list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    #[serde(skip)]
    omitted: usize,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether it stops us.
    pub severity: Severity,
    /// The text that is wrong.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// A word on the underlined text, where the message alone leaves open what of it is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places that have to do with it, maybe in other files.
    pub related: Vec<Related>,
}

/// Whether a problem stops us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably does not say what was meant.
    Warning,
}

/// A piece of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
    /// Of the first character, in characters, counted from 1.
    pub column: usize,
    /// Of the first character after it; the same as `column` when there is nothing to point at.
    pub end_column: usize,
    /// The whole line; empty when it is too long to be worth showing.
    #[serde(skip)]
    pub text: Arc<str>,
}

/// Another place that has to do with a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What it has to do with it, like "first used here".
    pub message: String,
}

impl Diagnostics {
    pub(crate) fn new(found: Vec<Diagnostic>, omitted: usize) -> Self {
        Self { found, omitted }
    }

    /// Each of them, in order of file and position.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len() + self.omitted
    }

    /// Text for a terminal: every problem with its line and what to do, then a line that counts them. Empty when
    /// there are none.
    pub fn render(&self, color: bool) -> String {
        if self.is_empty() {
            return String::new();
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.found {
            out += &renderer.render(&[diagnostic.group()]);
            out += "\n\n";
        }
        out += &self.summary();
        out.push('\n');
        out
    }

    /// Like `2 errors and 1 warning in 2 files`.
    pub fn summary(&self) -> String {
        let count = |severity| self.found.iter().filter(|d| d.severity == severity).count();
        let parts: Vec<String> = [("error", count(Severity::Error)), ("warning", count(Severity::Warning))]
            .into_iter()
            .filter(|&(_, n)| n > 0)
            .map(|(word, n)| plural(n, word))
            .collect();
        let files = self.found.iter().map(|d| &d.place.file).collect::<BTreeSet<_>>().len();
        let more =
            if self.omitted > 0 { format!(", and {} more not shown", self.omitted) } else { String::new() };
        format!("{} in {}{more}", parts.join(" and "), plural(files, "file"))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

impl Diagnostic {
    fn group(&self) -> Group<'_> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        group = self.place.show(group, AnnotationKind::Primary, self.label.as_deref());
        for related in &self.related {
            group = related.place.show(group, AnnotationKind::Context, Some(&related.message));
        }
        match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl Place {
    fn show<'a>(&'a self, group: Group<'a>, kind: AnnotationKind, label: Option<&'a str>) -> Group<'a> {
        if self.text.is_empty() {
            let origin = Origin::path(&*self.file).line(self.line).char_column(self.column);
            return group.element(origin);
        }
        let byte = |column: usize| {
            self.text.char_indices().nth(column.saturating_sub(1)).map_or(self.text.len(), |(byte, _)| byte)
        };
        let annotation = kind.span(byte(self.column)..byte(self.end_column)).label(label);
        group.element(
            Snippet::source(&*self.text).path(&*self.file).line_start(self.line).annotation(annotation),
        )
    }
}
