//! Tables and the numbers in them, the same on the screen and in the document.

/// What was printed, for the document.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Prints a heading with what is to be known about what follows.
    pub(super) fn section(&mut self, heading: &str, text: &str) {
        self.put(&format!("\n## {heading}\n\n{text}\n"));
    }

    /// Prints a paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.put(&format!("\n{text}\n"));
    }

    /// Prints a table; the first row is its head.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) {
        self.put(&format!("\n{}", aligned(rows)));
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn put(&mut self, text: &str) {
        print!("{text}");
        self.text.push_str(text);
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let length = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| length(&cell(row, column))).max().unwrap_or(0).max(3))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = cell(row, column);
            let space = " ".repeat(width - length(&cell));
            // Numbers stand to the right.
            text += &if column == 0 { format!("| {cell}{space} ") } else { format!("| {space}{cell} ") };
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                text += &if column == 0 { format!("|-{line}-") } else { format!("|-{line}:") };
            }
            text += "|\n";
        }
    }
    text
}

/// Several measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// NaN when there is none.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// Each measurement divided by the other sample's of the same round.
    pub(super) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// The median with the least and the greatest.
    pub(super) fn cell(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self.0.len() {
            0 => "–".to_owned(),
            1 => number(self.median()),
            _ => format!("{} ({}–{})", number(self.median()), number(least), number(greatest)),
        }
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// With as many places as say something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => grouped(value),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 3.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many guests, as the head of a column.
pub(super) fn count(value: u32) -> String {
    grouped(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::{Sample, aligned, number};

    #[test]
    fn a_sample_says_its_median_and_its_ends() {
        let sample: Sample = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(sample.cell(), "2.00 (1.00–3.0)");
        assert_eq!(sample.over(&sample).cell(), "1.00 (1.00–1.00)");
        assert_eq!(Sample::default().cell(), "–");
    }

    #[test]
    fn numbers_have_places_that_say_something() {
        assert_eq!([12_345.6, 123.4, 12.34, 0.123].map(number), ["12,346", "123", "12.3", "0.12"]);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["way".to_owned(), "10".to_owned()], vec!["by hand".to_owned(), "1".to_owned()]];
        assert_eq!(aligned(&rows), "| way     |  10 |\n|---------|----:|\n| by hand |   1 |\n");
    }
}
