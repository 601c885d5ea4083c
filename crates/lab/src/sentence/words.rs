//! A sentence's words with their places.

use std::ops::Range;

use super::SentenceError;

/// A word, or a quoted text without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'t> {
    pub(super) text: &'t str,
    pub(super) quoted: bool,
    pub(super) at: Range<usize>,
}

/// Reads words one after the other.
#[derive(Debug)]
pub(super) struct Words<'t> {
    words: Vec<Word<'t>>,
    next: usize,
    end: usize,
}

impl<'t> Words<'t> {
    pub(super) fn new(text: &'t str) -> Result<Self, SentenceError> {
        let mut words = Vec::new();
        let mut at = 0;
        loop {
            at += text[at..].len() - text[at..].trim_start().len();
            let rest = &text[at..];
            if rest.is_empty() {
                return Ok(Self { words, next: 0, end: text.len() });
            }
            let (word, length) = match rest.strip_prefix('"') {
                Some(inside) => match inside.find('"') {
                    Some(length) => (Word { text: &inside[..length], quoted: true, at: 0..0 }, length + 2),
                    None => {
                        return Err(SentenceError {
                            at: at..text.len(),
                            message: "a quotation that does not end".to_owned(),
                            help: "close it with \"".to_owned(),
                        });
                    }
                },
                None => {
                    let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
                    (Word { text: &rest[..length], quoted: false, at: 0..0 }, length)
                }
            };
            words.push(Word { at: at..at + length, ..word });
            at += length;
        }
    }

    pub(super) fn peek(&self) -> Option<&Word<'t>> {
        self.words.get(self.next)
    }

    pub(super) fn take(&mut self) -> Option<Word<'t>> {
        let word = self.words.get(self.next).cloned();
        self.next += usize::from(word.is_some());
        word
    }

    /// The next words, if they are these.
    pub(super) fn accept(&mut self, phrase: &str) -> bool {
        let mut ahead = self.words[self.next..].iter();
        let matches = phrase.split(' ').all(|p| ahead.next().is_some_and(|w| !w.quoted && w.text == p));
        if matches {
            self.next += phrase.split(' ').count();
        }
        matches
    }

    /// Where the next word is, or the end of the sentence.
    pub(super) fn place(&self) -> Range<usize> {
        self.peek().map_or(self.end..self.end, |word| word.at.clone())
    }

    /// The rest of the sentence.
    pub(super) fn rest(&self) -> Range<usize> {
        self.place().start..self.end
    }
}
