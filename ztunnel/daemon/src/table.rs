//! Tables for people, aligned: the same for whoever asks by curl and by the command line.

/// Something that makes a line of a table.
pub(crate) trait Row {
    const HEADER: &'static [&'static str];

    fn cells(&self) -> Vec<String>;
}

pub(crate) fn table<R: Row>(rows: impl IntoIterator<Item = R>) -> String {
    let header = R::HEADER.iter().map(|&title| title.to_owned()).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(header).chain(rows.into_iter().map(|row| row.cells())).collect();
    aligned(&lines)
}

/// Columns as wide as their widest; two blanks between. An empty cell is a dash, so that columns can be cut out.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let length =
        |line: &Vec<String>, column: usize| line.get(column).map_or(0, |cell: &String| cell.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| length(line, column)).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| {
            let cell = if cell.is_empty() { "-" } else { cell };
            format!("{cell:<width$}")
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    printable(text)
}

/// What peers and files name themselves must not command a terminal.
fn printable(text: String) -> String {
    let commands = |character: char| character.is_control() && character != '\n';
    if text.contains(commands) { text.replace(commands, "?") } else { text }
}

/// `17.3K`, in steps of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let mut unit = 0;
    let mut scaled = count;
    let mut rest = 0;
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    if unit == 0 { count.to_string() } else { format!("{scaled}.{}{}", rest * 10 / 1024, UNITS[unit]) }
}

/// `45s`, `12m`, `3h20m`, `5d1h`: two units at most.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_left_empty() {
        let lines = [["A", "LONG", "B"], ["wide", "", "ü"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines), "A     LONG  B\nwide  -     ü\n");
    }

    /// A service account or an error text may hold anything.
    #[test]
    fn a_terminal_is_not_commanded_by_a_cell() {
        assert_eq!(aligned(&[vec!["a\x1b[2Jb\r\nc".to_owned()]]), "a?[2Jb?\nc\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 1023, 1024, 1536, 5 << 30].map(bytes), ["0", "1023", "1.0K", "1.5K", "5.0G"]);
        assert_eq!([5, 61, 3725, 90_000].map(span), ["5s", "1m1s", "1h2m", "1d1h"]);
    }
}
