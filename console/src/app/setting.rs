//! Settings as people type them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// `max_tokens=4096`; a value that is no JSON is a word.
///
/// # Errors
/// What it is not.
pub(crate) fn parse(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let (name, value) = (name.trim(), value.trim());
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// All of them as a JSON object; empty where there are none.
pub(crate) fn object(settings: impl IntoIterator<Item = (String, Value)>) -> String {
    let object: BTreeMap<String, Value> = settings.into_iter().collect();
    if object.is_empty() { String::new() } else { json!(object).to_string() }
}

#[cfg(test)]
mod tests {
    use super::{object, parse};

    #[test]
    fn numbers_words_and_nothing() {
        let typed = ["context_tokens=4096", "speculation = off", "cache_bytes=null"];
        let settings = object(typed.map(|text| parse(text).unwrap()));
        assert_eq!(settings, r#"{"cache_bytes":null,"context_tokens":4096,"speculation":"off"}"#);
        assert_eq!(object([]), "");
        assert!(parse("fast").unwrap_err().contains("NAME=VALUE"));
    }
}
