//! Output: for people, and as JSON for programs. Results go to standard output, everything else to standard error.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::Mutex,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Prints a line of results.
macro_rules! say {
    ($($text:tt)*) => { $crate::show::write(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line on standard error.
macro_rules! tell {
    ($($text:tt)*) => { $crate::show::write(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {say, tell};

/// Why results could not be written.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes, and goes on when it cannot: work on the network does not stop half-way because nobody listens.
pub(crate) fn write(to: &mut impl Write, text: fmt::Arguments<'_>) {
    keep_error(to.write_fmt(text));
}

fn keep_error(result: io::Result<()>) {
    let Err(error) = result else { return };
    // A reader that leaves early, like `head`, is no error.
    if error.kind() != io::ErrorKind::BrokenPipe
        && let Ok(mut lost) = LOST.lock()
    {
        lost.get_or_insert(error);
    }
}

/// Writes what waits; whether results were lost on the way to where they should go.
pub(crate) fn finish() -> Option<io::Error> {
    keep_error(io::stdout().flush());
    LOST.lock().ok()?.take()
}

/// Prints a text that ends its lines itself.
pub(crate) fn say_text(text: &str) {
    write(&mut io::stdout(), format_args!("{text}"));
}

/// Prints a text that ends its lines itself on standard error.
pub(crate) fn tell_text(text: &str) {
    write(&mut io::stderr(), format_args!("{text}"));
}

/// Whether messages on standard error may be coloured (<https://no-color.org>).
pub(crate) fn color_on_stderr() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many columns a table may take.
pub(crate) fn width() -> u16 {
    const WITHOUT_TERMINAL: u16 = 120;
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    told.or_else(seen).filter(|&columns| columns > 0).unwrap_or(WITHOUT_TERMINAL).max(60)
}

/// Prints an object for programs.
pub(crate) fn say_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say!("{text}"),
        Err(error) => keep_error(Err(error.into())),
    }
}

/// `1 step`, `2 steps`.
pub(crate) fn count(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// A bar for work that takes long enough to wonder; nothing where nobody watches.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Fewer steps than this are done before anybody could read.
    const WORTH_SHOWING: usize = 200;

    pub(crate) fn new() -> Self {
        Self { bar: None }
    }

    pub(crate) fn at(&mut self, done: usize, total: usize) {
        if total < Self::WORTH_SHOWING || !io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps {elapsed}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
