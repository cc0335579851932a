//! The text format that Prometheus reads.

use std::fmt::{Display, Write};

use super::histogram::Histogram;

/// A page that is being written.
#[derive(Default)]
pub struct Page(String);

pub type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    /// Begin a metric: what it is, for those who read pages, and of which kind.
    pub fn declare(&mut self, name: &str, kind: &str, help: Option<&str>) {
        if let Some(help) = help {
            self.line(format_args!("# HELP {name} {help}"));
        }
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        self.0.push('{');
        self.labels(labels);
        self.line(format_args!("}} {value}"));
    }

    /// The samples of a histogram, its sum written by `number`.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        histogram: &Histogram,
        number: fn(f64) -> String,
    ) {
        let mut written = Page::default();
        written.labels(labels);
        let labels = written.0;
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (limit, count) in histogram.cumulative() {
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{limit}\"}} {count}"));
            total = count;
        }
        self.line(format_args!("{name}_sum{{{labels}}} {}", number(histogram.sum())));
        self.line(format_args!("{name}_count{{{labels}}} {total}"));
    }

    pub fn finish(self) -> String {
        self.0
    }

    fn labels(&mut self, labels: Labels<'_>) {
        for (at, (name, value)) in labels.iter().enumerate() {
            if at > 0 {
                self.0.push(',');
            }
            self.0.push_str(name);
            self.0.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{text}");
    }
}

/// A number with six significant digits, as C's `%g` writes it.
pub fn significant(value: f64) -> String {
    const DIGITS: i32 = 6;
    if !value.is_finite() || value == 0.0 {
        return value.to_string();
    }
    let scientific = format!("{value:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| {
        let digits = if text.contains('.') { text.trim_end_matches('0') } else { text };
        digits.trim_end_matches('.').to_owned()
    };
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
        return trimmed(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_significant_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1_101.996_057, "1102"),
            (100_000.0, "100000"),
            (999_999.5, "1e+06"),
            (1_274_822.9, "1.27482e+06"),
            (0.0001, "0.0001"),
            (0.000_012_345_678, "1.23457e-05"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(significant(value), expected);
        }
    }

    #[test]
    fn label_values_cannot_break_out_of_their_line() {
        let mut page = Page::default();
        page.declare("m", "counter", None);
        page.sample("m", &[("a", "x\"y\\z\n"), ("b", "é}")], 7);
        page.sample("m", &[], 8);

        let expected = "# TYPE m counter\nm{a=\"x\\\"y\\\\z\\n\",b=\"é}\"} 7\nm{} 8\n";
        assert_eq!(page.finish(), expected);
    }
}
