//! Reads the Prometheus text format as far as one number of it takes.

/// The sum of the series of `name` that carry all of `labels`; 0 if there is none.
pub(super) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (own_name, own_labels) = series.split_once('{').unwrap_or((series, ""));
        let carries = |(key, value): &(&str, &str)| {
            let pair = format!("{key}=\"{value}\"");
            own_labels
                .trim_end_matches('}')
                .split("\",")
                .any(|own| format!("{}\"", own.trim_end_matches('"')) == pair)
        };
        (own_name == name && labels.iter().all(carries)).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_chosen_by_name_and_labels() {
        let text = "# HELP opened n\nopened{reporter=\"source\",flags=\"-\"} 3\nopened{reporter=\"destination\",flags=\"-\"} 4\nopened_more{reporter=\"source\"} 9\nplain 5\n";
        assert_eq!(sum(text, "opened", &[]), 7.0);
        assert_eq!(sum(text, "opened", &[("reporter", "source"), ("flags", "-")]), 3.0);
        assert_eq!(sum(text, "opened", &[("reporter", "sour")]), 0.0);
        assert_eq!(sum(text, "plain", &[]), 5.0);
    }
}
