//! Prometheus' text format, as much of it as is needed: one sample a line, with labels
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Comments and time stamps are skipped.

/// Samples that are kept of one text; a server has some thousands.
const MOST_SAMPLES: usize = 100_000;
const MOST_LABELS: usize = 64;

/// Why a text is no exposition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionError {
    /// A line that is no sample.
    #[error("line {line} is no sample of Prometheus' text format: {text:?}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// More than any server has.
    #[error("there are more than {MOST_SAMPLES} samples")]
    TooMany,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// With its suffix: `…_bucket`, `…_total`.
    pub(crate) name: String,
    /// In the order of the line.
    pub(crate) labels: Vec<(String, String)>,
    /// It may be infinite or not a number.
    pub(crate) value: f64,
}

impl Sample {
    /// A label's value.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the samples whose name `wanted` says yes to.
///
/// # Errors
/// Which line is wrong; a server that says one wrong thing may say more.
pub(crate) fn parse(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Sample>, ExpositionError> {
    let mut samples = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name_end = line.find(|sign: char| sign == '{' || sign.is_whitespace()).unwrap_or(line.len());
        if !wanted(&line[..name_end]) {
            continue;
        }
        if samples.len() == MOST_SAMPLES {
            return Err(ExpositionError::TooMany);
        }
        let sample = sample(line, name_end).ok_or_else(|| ExpositionError::Line {
            line: index + 1,
            text: line.chars().take(80).collect(),
        })?;
        samples.push(sample);
    }
    Ok(samples)
}

fn sample(line: &str, name_end: usize) -> Option<Sample> {
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Behind the opening brace, up to behind the closing one.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(|sign: char| sign == ',' || sign.is_whitespace());
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        if labels.len() == MOST_LABELS {
            return None;
        }
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = quoted(behind.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim().to_owned(), value));
        rest = behind;
    }
}

/// Up to behind the closing quote; `\\`, `\"` and `\n` are escaped.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match signs.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn lines_labels_and_escapes_are_read() {
        let text = "# HELP a b\n\na 1\nb{} 2 1700000000\nc{x=\"1\",y=\"a \\\"b\\\" \\\\ } ,\",} +Inf\nskip{ nonsense\n";
        let samples = parse(text, |name| name != "skip").unwrap();
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        assert_eq!(values, [1.0, 2.0, f64::INFINITY]);
        assert_eq!(samples[2].label("y"), Some("a \"b\" \\ } ,"));
        assert_eq!((samples[2].label("x"), samples[2].label("z")), (Some("1"), None));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for wrong in ["a", "a{", "a{x} 1", "a{x=1} 1", "a{x=\"1} 1", "a one"] {
            let text = format!("b 1\n{wrong}\n");
            assert!(parse(&text, |_| true).unwrap_err().to_string().contains("line 2"), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse(&text, |_| true);
        }

        #[test]
        fn label_values_come_back(value in "\\PC{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let samples = parse(&format!("a{{x=\"{escaped}\"}} 1"), |_| true).unwrap();
            prop_assert_eq!(samples[0].label("x"), Some(value.as_str()));
        }
    }
}
