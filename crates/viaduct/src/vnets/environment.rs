//! What the environment says of how vnets are carried.

use std::{ffi::OsStr, num::IntErrorKind};

use tracing::warn;

/// A variable that is a whole number, of at least 1.
pub(super) struct Number {
    pub(super) name: &'static str,
    pub(super) most: u64,
}

impl Number {
    /// What holds of what is written there; what cannot hold is told in the log.
    pub(super) fn read(&self, unless_written: u64) -> u64 {
        let (taken, trouble) = self.taken(std::env::var_os(self.name).as_deref(), unless_written);
        if let Some(trouble) = trouble {
            warn!("{trouble}");
        }
        taken
    }

    /// What is taken, which is never out of the range, and what to say if it is not what is written: of a number that is too
    /// large, the largest, as more was wanted; of anything else, what is so unless it is written.
    fn taken(&self, written: Option<&OsStr>, unless_written: u64) -> (u64, Option<String>) {
        let Self { name, most } = self;
        let unless_written = unless_written.clamp(1, *most);
        let Some(written) = written else { return (unless_written, None) };
        let taken = match written.to_string_lossy().parse::<u64>() {
            Ok(number) if (1..=*most).contains(&number) => return (number, None),
            Ok(number) if number > *most => *most,
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => *most,
            Ok(_) | Err(_) => unless_written,
        };
        let trouble = format!(
            "{name} is {written:?}, but has to be a whole number from 1 to {most}: {taken} is taken instead"
        );
        (taken, Some(trouble))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const SOME: Number = Number { name: "SOME", most: 8 };

    #[test]
    fn what_is_allowed_is_taken_as_it_is_written() {
        let taken = |written: &str| SOME.taken(Some(OsStr::new(written)), 2);
        assert_eq!([taken("1"), taken("8")], [(1, None), (8, None)]);
        assert_eq!(SOME.taken(None, 2), (2, None));
        // So many processors that threads for all of them are of no use, or an unknown number.
        assert_eq!([SOME.taken(None, 64), SOME.taken(None, 0)], [(8, None), (1, None)]);
    }

    #[test]
    fn what_is_not_allowed_is_told_with_what_is_taken_instead() {
        let bytes = OsStr::from_bytes;
        let cases: [(&[u8], u64, &str); 8] = [
            (b"9", 8, r#""9""#),
            (b"99999999999999999999999999", 8, r#""99999999999999999999999999""#),
            (b"0", 2, r#""0""#),
            (b"-1", 2, r#""-1""#),
            (b"1.5", 2, r#""1.5""#),
            (b"", 2, r#""""#),
            (b"four\n", 2, r#""four\n""#),
            (b"\xff", 2, r#""\xFF""#),
        ];
        for (written, wanted, read) in cases {
            let (taken, trouble) = SOME.taken(Some(bytes(written)), 2);
            assert_eq!(taken, wanted, "{read}");
            let said = format!(
                "SOME is {read}, but has to be a whole number from 1 to 8: {wanted} is taken instead"
            );
            assert_eq!(trouble, Some(said));
        }
    }
}
