//! What is wrong with a `lab.toml`: all of it at once, each with its place and what to write instead.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use viaduct_model::Diagnostics;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    source: String,
    found: Vec<Problem>,
    /// What is wrong with the hosts' configurations.
    others: Vec<Diagnostics>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    at: Range<usize>,
    message: String,
    help: String,
}

impl Problems {
    pub(crate) fn new(file: impl Into<String>, source: impl Into<String>) -> Self {
        Self { file: file.into(), source: source.into(), found: Vec::new(), others: Vec::new() }
    }

    pub(crate) fn push(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        // The renderer wants whole characters inside of the text.
        let at = if self.source.get(at.clone()).is_some() { at } else { 0..0 };
        self.found.push(Problem { at, message: message.into(), help: help.into() });
    }

    pub(crate) fn push_diagnostics(&mut self, diagnostics: Diagnostics) {
        self.others.push(diagnostics);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.others.is_empty()
    }

    /// The line of a byte, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        1 + self.source.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count()
    }

    /// Text for a terminal.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut found: Vec<&Problem> = self.found.iter().collect();
        found.sort_by_key(|problem| problem.at.start);
        let texts: Vec<String> = found
            .into_iter()
            .map(|problem| {
                let snippet = Snippet::source(&*self.source)
                    .path(&*self.file)
                    .annotation(AnnotationKind::Primary.span(problem.at.clone()));
                let title = Level::ERROR.primary_title(&*problem.message).element(snippet);
                let group = if problem.help.is_empty() {
                    title
                } else {
                    title.element(Level::HELP.message(&*problem.help))
                };
                renderer.render(&[group])
            })
            .collect();
        let others = self.others.iter().map(|diagnostics| diagnostics.render(color).trim_end().to_owned());
        texts.into_iter().chain(others).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}
