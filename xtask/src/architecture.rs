//! The table of ARCHITECTURE.md, which says what each crate may use. The document is what counts: the tests read it.

/// One crate's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The package's name.
    pub name: String,
    /// No I/O, no clock, no environment.
    pub pure: bool,
    /// Whether it may have unsafe blocks.
    pub may_be_unsafe: bool,
    /// The packages of this workspace that it may use.
    pub may_use: Vec<String>,
}

/// Reads the table of a text: the one whose first column is headed `crate`.
///
/// # Errors
/// When there is none, or a row is not as the others.
pub fn table(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines().skip_while(|line| cells(line).first().is_none_or(|cell| cell != "crate"));
    let Some(header) = lines.next().map(cells) else {
        return Err("there is no table with a first column `crate`".to_owned());
    };
    let column = |name: &str| {
        header.iter().position(|cell| cell == name).ok_or_else(|| format!("the table has no column `{name}`"))
    };
    let (pure, may_be_unsafe, may_use) = (column("pure")?, column("unsafe")?, column("may use")?);
    lines
        .skip(1)
        .map(cells)
        .take_while(|cells| !cells.is_empty())
        .map(|cells| {
            if cells.len() != header.len() {
                return Err(format!("this row has not {} cells: {cells:?}", header.len()));
            }
            let flag = |index: usize| match cells[index].as_str() {
                "yes" => Ok(true),
                "no" => Ok(false),
                other => Err(format!("{}: {} is yes or no, not {other}", cells[0], header[index])),
            };
            Ok(Row {
                name: quoted(&cells[0]).next().unwrap_or_default().to_owned(),
                pure: flag(pure)?,
                may_be_unsafe: flag(may_be_unsafe)?,
                may_use: quoted(&cells[may_use]).map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// The cells of a row; none for a line that is no row.
fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
        return Vec::new();
    };
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read() {
        let text = "\
            text | with bars\n\n\
            | crate | owns | pure | unsafe | may use |\n|---|---|---|---|---|\n\
            | `a` | this | no | yes | `b`, `c` |\n\
            | `b` | that | yes | no | nothing |\n\nafter\n";
        let rows = table(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].may_use, ["b", "c"]);
        assert!(!rows[0].pure && rows[0].may_be_unsafe && rows[1].pure && rows[1].may_use.is_empty());
    }

    #[test]
    fn a_broken_table_is_refused() {
        assert!(table("nothing here").is_err());
        assert!(table("| crate | pure |\n|---|---|\n").unwrap_err().contains("`unsafe`"));
        let row = "| crate | pure | unsafe | may use |\n|---|---|---|---|\n| `a` | perhaps | no | |\n";
        assert!(table(row).unwrap_err().contains("perhaps"));
    }
}
