//! The formats: OpenAI chat lines, Alpaca, ShareGPT, plain text, Parquet. Nothing is left out in silence: what cannot be read
//! is listed with its line and the reason.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::example::{Body, Example, Role, Turn};

const MOST_BYTES: u64 = 4 << 30;
const MOST_LINE_BYTES: usize = 8 << 20;
const MOST_EXAMPLES: usize = 5_000_000;
const MOST_TURNS: usize = 1_024;
/// Bad lines that are kept by name; all are counted.
const MOST_BAD_LINES: usize = 1_000;

/// How a dataset is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `{"messages": [{"role": …, "content": …}]}`
    OpenAi,
    /// `{"instruction": …, "input": …, "output": …}`
    Alpaca,
    /// `{"conversations": [{"from": …, "value": …}]}`
    ShareGpt,
    /// `{"text": …}`, or paragraphs between empty lines.
    Text,
}

impl Format {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "OpenAI chat",
            Self::Alpaca => "Alpaca",
            Self::ShareGpt => "ShareGPT",
            Self::Text => "text",
        }
    }

    fn of(fields: &Map<String, Value>) -> Option<Self> {
        [
            ("messages", Self::OpenAi),
            ("conversations", Self::ShareGpt),
            ("instruction", Self::Alpaca),
            ("text", Self::Text),
        ]
        .into_iter()
        .find_map(|(field, format)| fields.contains_key(field).then_some(format))
    }
}

/// Why a file is no dataset at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{path}: {source}; check that the path exists and that the agent may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A line that is no example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What a file has.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// How it is written; `None` when nothing in it could be read.
    pub format: Option<Format>,
    /// In the file's order.
    pub examples: Vec<Example>,
    /// What could not be read; the first of them.
    pub bad_lines: Vec<BadLine>,
    /// How many could not.
    pub bad: usize,
}

impl Dataset {
    /// Reads a file by its name: `.parquet`, `.json` (a list), `.txt` or `.md` (paragraphs), anything else as JSON lines.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is not of its format at all.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Read { path: path.to_owned(), source };
        let malformed = |reason: String| ReadError::Malformed { path: path.to_owned(), reason };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > MOST_BYTES {
            return Err(malformed(format!("has {bytes} bytes; at most {MOST_BYTES} are read: split it")));
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let mut dataset = Self::default();
        match extension {
            "parquet" => dataset.read_parquet(path)?,
            "txt" | "md" => {
                let text = std::fs::read_to_string(path).map_err(failed)?;
                dataset.read_paragraphs(&text);
            }
            "json" => {
                let mut text = String::new();
                File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
                let entries: Vec<Value> = serde_json::from_str(&text)
                    .map_err(|error| malformed(format!("is not a JSON list of examples: {error}")))?;
                entries.iter().enumerate().for_each(|(index, entry)| dataset.take(index + 1, entry));
            }
            _ => dataset.read_lines(BufReader::new(File::open(path).map_err(failed)?)).map_err(failed)?,
        }
        if dataset.examples.len() > MOST_EXAMPLES {
            return Err(malformed(format!("has more than {MOST_EXAMPLES} examples: split it")));
        }
        Ok(dataset)
    }

    fn read_lines(&mut self, mut reader: impl BufRead) -> std::io::Result<()> {
        for number in 1.. {
            let mut line = Vec::new();
            let read = (&mut reader).take(MOST_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            if read > MOST_LINE_BYTES {
                self.refuse(number, format!("is longer than {MOST_LINE_BYTES} bytes"));
                reader.skip_until(b'\n')?;
                continue;
            }
            match std::str::from_utf8(&line) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => match serde_json::from_str::<Value>(text) {
                    Ok(value) => self.take(number, &value),
                    Err(error) => self.refuse(number, format!("is not JSON: {error}")),
                },
                Err(_) => self.refuse(number, "is not UTF-8".into()),
            }
        }
        Ok(())
    }

    fn read_parquet(&mut self, path: &Path) -> Result<(), ReadError> {
        let failed = |source| ReadError::Read { path: path.to_owned(), source };
        let malformed = |error: parquet::errors::ParquetError| ReadError::Malformed {
            path: path.to_owned(),
            reason: format!("is not a Parquet file that can be read: {error}"),
        };
        let reader = SerializedFileReader::new(File::open(path).map_err(failed)?).map_err(malformed)?;
        for (index, row) in reader.get_row_iter(None).map_err(malformed)?.enumerate() {
            self.take(index + 1, &row.map_err(malformed)?.to_json_value());
        }
        Ok(())
    }

    fn read_paragraphs(&mut self, text: &str) {
        self.format = Some(Format::Text);
        let mut begin = 1;
        let mut paragraph = Vec::new();
        for (number, line) in (1..).zip(text.lines().chain([""])) {
            if line.trim().is_empty() {
                if !paragraph.is_empty() {
                    let text = std::mem::take(&mut paragraph).join("\n");
                    self.examples.push(Example { line: begin, body: Body::Text(text) });
                }
                begin = number + 1;
            } else {
                paragraph.push(line);
            }
        }
    }

    fn take(&mut self, line: usize, value: &Value) {
        match example(value) {
            Ok((format, body)) => {
                self.format = self.format.or(Some(format));
                self.examples.push(Example { line, body });
            }
            Err(reason) => self.refuse(line, reason),
        }
    }

    fn refuse(&mut self, line: usize, reason: String) {
        self.bad += 1;
        if self.bad_lines.len() < MOST_BAD_LINES {
            self.bad_lines.push(BadLine { line, reason });
        }
    }
}

fn example(value: &Value) -> Result<(Format, Body), String> {
    let fields = value.as_object().ok_or("is not a JSON object")?;
    let format = Format::of(fields).ok_or_else(|| {
        let has: Vec<&str> = fields.keys().map(String::as_str).take(8).collect();
        format!("has none of messages, conversations, instruction and text; it has {}", has.join(", "))
    })?;
    let body = match format {
        Format::OpenAi => turns(fields, "messages", "role", "content")?,
        Format::ShareGpt => turns(fields, "conversations", "from", "value")?,
        Format::Alpaca => alpaca(fields)?,
        Format::Text => Body::Text(text(fields, "text")?.to_owned()),
    };
    Ok((format, body))
}

fn turns(fields: &Map<String, Value>, list: &str, who: &str, what: &str) -> Result<Body, String> {
    let entries = fields.get(list).and_then(Value::as_array);
    let entries = entries.ok_or_else(|| format!("{list} is not a list"))?;
    if entries.len() > MOST_TURNS {
        return Err(format!("{list} has {} turns; at most {MOST_TURNS} are read", entries.len()));
    }
    let of_all = weight(fields.get("weight"), "weight")?.unwrap_or(1.0);
    let turn = |(index, entry): (usize, &Value)| {
        let place = format!("{list}[{index}]");
        let entry = entry.as_object().ok_or_else(|| format!("{place} is not an object"))?;
        for unread in ["tool_calls", "function_call"] {
            if entry.get(unread).is_some_and(|value| !value.is_null()) {
                return Err(format!("{place}.{unread} is not supported; write the call into its content"));
            }
        }
        let role = text(entry, who).map_err(|reason| format!("{place}.{reason}"))?;
        let role = role_of(role).ok_or_else(|| {
            format!("{place}.{who} is {role:?}; there are system, user and assistant (or human and gpt)")
        })?;
        let content = text(entry, what).map_err(|reason| format!("{place}.{reason}"))?.to_owned();
        let own = weight(entry.get("weight"), &format!("{place}.weight"))?;
        Ok(Turn { role, content, weight: own.unwrap_or(1.0) * of_all })
    };
    Ok(Body::Conversation(entries.iter().enumerate().map(turn).collect::<Result<_, _>>()?))
}

fn alpaca(fields: &Map<String, Value>) -> Result<Body, String> {
    let mut asked = text(fields, "instruction")?.to_owned();
    match fields.get("input") {
        None | Some(Value::Null) => {}
        Some(Value::String(input)) if input.is_empty() => {}
        Some(Value::String(input)) => asked = format!("{asked}\n\n{input}"),
        Some(_) => return Err("input is not text".into()),
    }
    let turn = |role, content: String| Turn { role, content, weight: 1.0 };
    let answer = text(fields, "output")?.to_owned();
    Ok(Body::Conversation(vec![turn(Role::User, asked), turn(Role::Assistant, answer)]))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(format!("{name} is missing")),
        Some(_) => Err(format!("{name} is not text")),
    }
}

fn weight(value: Option<&Value>, place: &str) -> Result<Option<f32>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(weight) if (0.0..=100.0).contains(&weight) => Ok(Some(weight as f32)),
            _ => Err(format!("{place} is not a number from 0 to 100")),
        },
    }
}

fn role_of(word: &str) -> Option<Role> {
    Some(match word {
        "system" | "developer" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" | "model" | "chatgpt" => Role::Assistant,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::{Dataset, Format};
    use crate::example::{Body, Role};

    fn read(name: &str, text: &str) -> Dataset {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Dataset::read(&path).unwrap()
    }

    #[test]
    fn every_format_gives_the_same_conversation() {
        let openai =
            r#"{"messages":[{"role":"user","content":"Add 1 and 2."},{"role":"assistant","content":"3"}]}"#;
        let alpaca = r#"{"instruction":"Add 1 and 2.","input":"","output":"3"}"#;
        let sharegpt =
            r#"{"conversations":[{"from":"human","value":"Add 1 and 2."},{"from":"gpt","value":"3"}]}"#;
        let expected = read("a.jsonl", openai).examples[0].body.clone();
        for (name, text, format) in [
            ("b.jsonl", alpaca.to_owned(), Format::Alpaca),
            ("c.jsonl", sharegpt.to_owned(), Format::ShareGpt),
            ("d.json", format!("[{alpaca}]"), Format::Alpaca),
        ] {
            let dataset = read(name, &text);
            assert_eq!((dataset.format, &dataset.examples[0].body), (Some(format), &expected), "{name}");
        }
        let text = read("e.txt", "One.\nStill one.\n\n\nTwo.\n");
        assert_eq!(text.examples.iter().map(|example| example.line).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(text.examples[0].body, Body::Text("One.\nStill one.".into()));
    }

    #[test]
    fn weights_are_kept() {
        let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},{"role":"user","content":"c"},{"role":"assistant","content":"d"}],"weight":0.5}"#;
        let Body::Conversation(turns) = read("a.jsonl", line).examples[0].body.clone() else { panic!() };
        assert_eq!(turns.iter().map(|turn| turn.weight).collect::<Vec<_>>(), [0.5, 0.0, 0.5, 0.5]);
        assert_eq!(turns[1].role, Role::Assistant);
    }

    #[test]
    fn a_bad_line_is_named_with_its_number_and_reason() {
        let lines = [
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            "{not json",
            "",
            r#"{"question":"x"}"#,
            r#"{"messages":[{"role":"robot","content":"a"}]}"#,
            r#"{"messages":[{"role":"user"}]}"#,
            r#"{"instruction":"x","output":7}"#,
        ];
        let dataset = read("a.jsonl", &lines.join("\n"));
        assert_eq!((dataset.examples.len(), dataset.bad), (1, 5));
        let numbers: Vec<usize> = dataset.bad_lines.iter().map(|bad| bad.line).collect();
        assert_eq!(numbers, [2, 4, 5, 6, 7]);
        let reasons: Vec<&str> = dataset.bad_lines.iter().map(|bad| bad.reason.as_str()).collect();
        assert!(reasons[0].contains("not JSON") && reasons[1].contains("it has question"), "{reasons:?}");
        assert!(reasons[2].contains("messages[0].role is \"robot\""), "{reasons:?}");
        assert!(reasons[3].contains("messages[0].content is missing"), "{reasons:?}");
        assert!(reasons[4].contains("output is not text"), "{reasons:?}");
    }

    #[test]
    fn parquet_is_read_by_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let schema =
            "message m { REQUIRED BYTE_ARRAY instruction (UTF8); REQUIRED BYTE_ARRAY output (UTF8); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for column in [["Add 1 and 2.", "Say hi."], ["3", "hi"]] {
            let mut writer = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = column.iter().map(|text| ByteArray::from(*text)).collect();
            writer.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            writer.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        let dataset = Dataset::read(&path).unwrap();
        assert_eq!((dataset.format, dataset.bad), (Some(Format::Alpaca), 0));
        assert_eq!(dataset.examples[1].prompt(), "Say hi.");
        assert_eq!(dataset.examples[1].answer(), "hi");
    }
}
