//! Files cut at their table headers, and put together again.

use std::{collections::BTreeSet, ops::Range};

use viaduct_types::GuestName;

use crate::{Origin, Source};

/// The files without the tables of most guests.
pub(super) struct Small {
    pub(super) sources: Vec<Source>,
    /// What each of them is made of.
    pieces: Vec<Vec<Piece>>,
}

/// Text that was taken over.
struct Piece {
    /// Where it begins now, in bytes and in lines from 0.
    at: usize,
    line: usize,
    /// Where it stood.
    from: Range<usize>,
    from_line: usize,
    /// Whether it is of the guest that is edited.
    edited: bool,
}

/// A change of a file's text in one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Splice {
    /// What is replaced in the file.
    range: Range<usize>,
    with: String,
    /// The first line, from 0, that moves as a whole, in the small file before the change and in the whole file.
    small_line: usize,
    whole_line: usize,
    /// How far.
    by: isize,
    /// Where the change begins: lines of the small and of the whole file, from 0.
    begins: (usize, usize),
}

impl Small {
    /// None when no table is the edited guest's.
    pub(super) fn new(sources: &[Source], edited: &GuestName, needed: &BTreeSet<GuestName>) -> Option<Self> {
        let mut small = Self { sources: Vec::new(), pieces: Vec::new() };
        for source in sources {
            let (mut text, mut pieces, mut line) = (String::new(), Vec::<Piece>::new(), 0);
            for section in sections(&source.text) {
                let wanted = match &section.guest {
                    Of::Nobody => true,
                    Of::Guest(name) => needed.iter().any(|guest| guest.as_str() == *name),
                    Of::Unclear => return None,
                };
                if !wanted {
                    continue;
                }
                let body = source.text.get(section.range.clone())?;
                let edited = matches!(section.guest, Of::Guest(name) if name == edited.as_str());
                match pieces.last_mut() {
                    // The guest's tables one after the other may change together.
                    Some(Piece { from, edited: true, .. }) if edited && from.end == section.range.start => {
                        from.end = section.range.end;
                    }
                    Some(_) | None => pieces.push(Piece {
                        at: text.len(),
                        line,
                        from: section.range,
                        from_line: section.line,
                        edited,
                    }),
                }
                line += newlines(body);
                text.push_str(body);
            }
            small.sources.push(Source { name: source.name.clone(), text });
            small.pieces.push(pieces);
        }
        small.pieces.iter().flatten().any(|piece| piece.edited).then_some(small)
    }

    fn index(&self, origin: &Origin) -> Option<usize> {
        self.sources.iter().position(|source| *source.name == *origin.file)
    }

    /// The line of the whole file for one of the small file; both from 0.
    fn whole_line(&self, index: usize, line: usize) -> usize {
        let pieces = self.pieces.get(index).map_or(&[][..], Vec::as_slice);
        let piece = pieces.iter().rev().find(|piece| piece.line <= line);
        piece.map_or(line, |piece| piece.from_line + (line - piece.line))
    }

    /// A place in the small files becomes the one in the whole files.
    pub(super) fn place(&self, origin: &mut Origin) {
        if let Some(index) = self.index(origin) {
            origin.line = self.whole_line(index, origin.line.saturating_sub(1)) + 1;
        }
    }

    /// The same for a place in the small files after the change.
    pub(super) fn place_after(&self, origin: &mut Origin, splices: &[Splice]) {
        let Some((index, splice)) = self.index(origin).and_then(|i| Some((i, splices.get(i)?))) else {
            return;
        };
        let line = origin.line.saturating_sub(1);
        let before = line.saturating_add_signed(-splice.by);
        origin.line = 1 + if splice.by != 0 && before >= splice.small_line && line > splice.begins.0 {
            self.whole_line(index, before).saturating_add_signed(splice.by)
        } else if line > splice.begins.0 && splice.by != 0 {
            splice.begins.1 + (line - splice.begins.0)
        } else {
            self.whole_line(index, line)
        };
    }

    /// A place in the whole files before the change becomes the one after it.
    pub(super) fn shift(&self, origin: &mut Origin, splices: &[Splice]) {
        let Some(splice) = self.index(origin).and_then(|index| splices.get(index)) else { return };
        if origin.line > splice.whole_line {
            origin.line = origin.line.saturating_add_signed(splice.by);
        }
    }

    /// What the change of a small file is in the whole one. None when it is not within one table of the guest.
    pub(super) fn splice(&self, index: usize, after: &str) -> Option<Splice> {
        let before = &self.sources.get(index)?.text;
        let pieces = self.pieces.get(index)?;
        if before == after {
            let (range, with) = (0..0, String::new());
            let begins = (usize::MAX, usize::MAX);
            return Some(Splice {
                range,
                with,
                small_line: usize::MAX,
                whole_line: usize::MAX,
                by: 0,
                begins,
            });
        }
        let same = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
        let begin = (0..=same).rev().find(|&at| before.is_char_boundary(at) && after.is_char_boundary(at))?;
        let most = before.len().min(after.len()) - begin;
        let rest =
            before.bytes().rev().zip(after.bytes().rev()).take(most).take_while(|(a, b)| a == b).count();
        let fits = |rest: usize| {
            before.is_char_boundary(before.len() - rest) && after.is_char_boundary(after.len() - rest)
        };
        let rest = (0..=rest).rev().find(|&rest| fits(rest))?;
        let end = before.len() - rest;
        let piece = pieces
            .iter()
            .find(|piece| piece.edited && piece.at <= begin && end <= piece.at + piece.from.len())?;
        let with = after.get(begin..after.len() - rest)?.to_owned();
        let whole = |at: usize| piece.from.start + (at - piece.at);
        let (old, head) = (before.get(begin..end)?, before.get(piece.at..begin)?);
        let by = isize::try_from(newlines(&with)).ok()? - isize::try_from(newlines(old)).ok()?;
        let begins = newlines(head);
        let ends = begins + newlines(old);
        // A line that goes on after the change has begun before it, unless that is just where it begins.
        let ends = ends + usize::from(!before.get(..end)?.ends_with('\n'));
        Some(Splice {
            range: whole(begin)..whole(end),
            with,
            small_line: piece.line + ends,
            whole_line: piece.from_line + ends,
            by,
            begins: (piece.line + begins, piece.from_line + begins),
        })
    }
}

impl Splice {
    pub(super) fn moves_lines(&self) -> bool {
        self.by != 0
    }

    pub(super) fn apply(&self, source: &Source) -> Source {
        let mut text = source.text.clone();
        text.replace_range(self.range.clone(), &self.with);
        Source { name: source.name.clone(), text }
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// From one table header to the next.
struct Section<'t> {
    range: Range<usize>,
    /// The line it begins with, from 0.
    line: usize,
    guest: Of<'t>,
}

/// Whose a table is.
enum Of<'t> {
    Nobody,
    Guest(&'t str),
    /// The header is written in a way that is not read here.
    Unclear,
}

/// A line that looks like a header within a text or a list cuts there, too; the parts are put together as they were.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections = vec![Section { range: 0..0, line: 0, guest: Of::Nobody }];
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if let Some(guest) = header(line) {
            sections.push(Section { range: at..at, line: number, guest });
        }
        at += line.len();
        if let Some(section) = sections.last_mut() {
            section.range.end = at;
        }
    }
    sections
}

/// Whose table a line begins, if it begins one.
fn header(line: &str) -> Option<Of<'_>> {
    let inside = line.trim_start().strip_prefix('[')?;
    let (inside, double) = inside.strip_prefix('[').map_or((inside, false), |inside| (inside, true));
    let (path, rest) = inside.split_once(if double { "]]" } else { "]" })?;
    let rest = rest.trim();
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    let mut keys = path.split('.').map(str::trim);
    let (first, second) = (keys.next()?, keys.next());
    let bare = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    Some(match (first, second) {
        ("guests", Some(name)) if bare(name) => Of::Guest(name),
        ("guests", Some(_)) => Of::Unclear,
        (first, _) if bare(first) => Of::Nobody,
        _ => Of::Unclear,
    })
}
