//! Collects problems by byte position while a configuration is read, and turns them into [`Diagnostics`] at the end.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use crate::{Diagnostic, Diagnostics, Origin, Place, Related, Severity, Source};

/// Nobody reads more of them, and hostile input could ask for millions.
const MOST: usize = 1000;

/// A longer line says nothing on a screen.
const LONGEST_LINE: usize = 2000;

/// A piece of one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    file: usize,
    start: usize,
    end: usize,
}

impl Span {
    pub(crate) fn new(file: usize, range: Range<usize>) -> Self {
        Self { file, start: range.start, end: range.end }
    }
}

/// A value and where it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// One problem; its methods add to what is said about it.
#[derive(Debug)]
pub(crate) struct Problem {
    severity: Severity,
    span: Span,
    message: String,
    label: Option<String>,
    help: Option<String>,
    related: Vec<(Span, String)>,
    syntax: bool,
}

impl Problem {
    fn new(severity: Severity, span: Span, message: String) -> Self {
        Self { severity, span, message, label: None, help: None, related: Vec::new(), syntax: false }
    }

    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn related(&mut self, span: Span, message: impl Into<String>) -> &mut Self {
        self.related.push((span, message.into()));
        self
    }
}

/// The files, and what was found wrong in them so far.
#[derive(Debug)]
pub(crate) struct Report<'s> {
    files: Vec<File<'s>>,
    found: Vec<Problem>,
    /// Takes what is said beyond `MOST`.
    spill: Problem,
    omitted: usize,
    errors: bool,
    /// Lines (file, number) that are not TOML: whatever else is said of them is noise.
    broken: BTreeSet<(usize, usize)>,
}

#[derive(Debug)]
struct File<'s> {
    name: Arc<str>,
    text: &'s str,
    line_starts: Vec<usize>,
}

impl<'s> Report<'s> {
    pub(crate) fn new(sources: &'s [Source]) -> Self {
        let files = sources
            .iter()
            .map(|source| File {
                name: source.name.as_str().into(),
                text: &source.text,
                line_starts: std::iter::once(0)
                    .chain(source.text.match_indices('\n').map(|(at, _)| at + 1))
                    .collect(),
            })
            .collect();
        Self {
            files,
            found: Vec::new(),
            spill: Problem::new(Severity::Error, Span::new(0, 0..0), String::new()),
            omitted: 0,
            errors: false,
            broken: BTreeSet::new(),
        }
    }

    /// The configuration cannot be used.
    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        self.errors = true;
        self.push(Severity::Error, span, message.into())
    }

    /// It can be used, but probably does not say what was meant.
    pub(crate) fn warning(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, span, message.into())
    }

    /// Something that should be there is not. Said only while every file could be read to its end: otherwise it may
    /// be there, in the part that could not.
    pub(crate) fn absent(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        if self.broken.is_empty() { self.error(span, message) } else { &mut self.spill }
    }

    /// The line is not TOML. Only the first such problem of a line is kept, the rest follow from it.
    pub(crate) fn syntax(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        self.errors = true;
        if self.broken.len() >= MOST {
            self.omitted += 1;
            return &mut self.spill;
        }
        if self.broken.insert((span.file, self.line(span))) {
            let problem = self.push(Severity::Error, span, message.into());
            problem.syntax = true;
            problem
        } else {
            &mut self.spill
        }
    }

    fn push(&mut self, severity: Severity, span: Span, message: String) -> &mut Problem {
        let problem = Problem::new(severity, span, message);
        if self.found.len() >= MOST {
            self.omitted += 1;
            self.spill = problem;
            return &mut self.spill;
        }
        self.found.push(problem);
        self.found.last_mut().unwrap_or(&mut self.spill)
    }

    /// Whether anything found so far stops us.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
    }

    /// Whether there is room for more, so that a costly suggestion is worth its time.
    pub(crate) fn has_room(&self) -> bool {
        self.found.len() < MOST
    }

    /// Where the span begins, for those who only want the line.
    pub(crate) fn origin(&self, span: Span) -> Origin {
        Origin { file: self.files[span.file].name.clone(), line: self.line(span) }
    }

    /// Everything found, in order of file and position.
    pub(crate) fn finish(mut self) -> Diagnostics {
        let mut found = std::mem::take(&mut self.found);
        // Stable: of problems at one place, the one found first comes first.
        found.sort_by_key(|p| (p.span.file, p.span.start));
        let unclear = self.unclear_lines();
        found.retain(|p| {
            let line = self.line(p.span);
            p.syntax || !unclear.iter().any(|(file, lines)| *file == p.span.file && lines.contains(&line))
        });
        let found = found.into_iter().map(|p| self.diagnostic(p)).collect();
        Diagnostics::new(found, self.omitted)
    }

    /// Broken lines; and after a broken header, the lines of its table, which are taken for another's.
    fn unclear_lines(&self) -> Vec<(usize, Range<usize>)> {
        let is_header = |file: &File<'_>, line: usize| {
            file.line_starts
                .get(line - 1)
                .is_none_or(|&start| file.text[start..].trim_start_matches([' ', '\t']).starts_with('['))
        };
        let unclear = |&(index, line): &(usize, usize)| {
            let file = &self.files[index];
            let next = || (line + 1..).find(|&next| is_header(file, next));
            let end = if is_header(file, line) { next() } else { None };
            (index, line..end.unwrap_or(line + 1))
        };
        self.broken.iter().map(unclear).collect()
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        Diagnostic {
            severity: problem.severity,
            place: self.place(problem.span),
            message: problem.message,
            label: problem.label,
            help: problem.help,
            related: problem
                .related
                .into_iter()
                .map(|(span, message)| Related { place: self.place(span), message })
                .collect(),
        }
    }

    fn line(&self, span: Span) -> usize {
        self.files[span.file].line_starts.partition_point(|&start| start <= span.start)
    }

    /// The first line of the span, with its columns.
    fn place(&self, span: Span) -> Place {
        let file = &self.files[span.file];
        let number = self.line(span);
        let start = file.line_starts[number - 1];
        let end = file.line_starts.get(number).copied().unwrap_or(file.text.len());
        let text = file.text[start..end].trim_end_matches(['\n', '\r']);
        let column = |at: usize| 1 + text.char_indices().take_while(|&(i, _)| start + i < at).count();
        Place {
            file: file.name.clone(),
            line: number,
            column: column(span.start),
            end_column: column(span.end.max(span.start)),
            text: if text.len() > LONGEST_LINE { "".into() } else { text.into() },
        }
    }
}
