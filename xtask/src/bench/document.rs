//! docs/benchmarks.md: a head, and a section for each part, so that one part can be measured again.

/// What comes before each section but its heading.
const HEADING: &str = "\n## ";

/// The document with these sections in place of those with the same headings; further ones come last. Of a document
/// that is not there, nothing is kept. The head is replaced, too.
pub(super) fn renewed(old: &str, head: &str, sections: &str) -> String {
    let mut all: Vec<&str> = split(old).skip(1).collect();
    for section in split(sections).skip(1) {
        match all.iter_mut().find(|other| heading(other) == heading(section)) {
            Some(other) => *other = section,
            None => all.push(section),
        }
    }
    let mut text = head.to_owned();
    for section in all {
        text += HEADING;
        text += section.trim_end();
        text.push('\n');
    }
    text
}

/// What comes before the first section, and each section without what marks it.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(HEADING)
}

fn heading(section: &str) -> &str {
    section.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::renewed;

    #[test]
    fn a_part_that_was_measured_again_replaces_its_section_only() {
        let old = "# B\n\nold head\n\n## one\n\n1\n\n### more\n\n## two\n\n2\n";
        assert_eq!(
            renewed(old, "# B\n\nhead\n", "\n## two\n\nnew\n"),
            "# B\n\nhead\n\n## one\n\n1\n\n### more\n\n## two\n\nnew\n"
        );
    }

    #[test]
    fn a_part_that_is_new_comes_last() {
        assert_eq!(renewed("", "h\n", "\n## one\n\n1\n\n## two\n"), "h\n\n## one\n\n1\n\n## two\n");
        assert_eq!(renewed("h\n\n## one\n", "h\n", "\n## two\n"), "h\n\n## one\n\n## two\n");
    }
}
