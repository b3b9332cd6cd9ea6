//! What a server says when it refuses a request.

use serde_json::Value;

/// Characters of what has no message, and of one that a report keeps.
const LONGEST: usize = 300;

/// The message of a body as OpenAI, vLLM, llama.cpp, TGI, Ollama or FastAPI write it; else the body's beginning.
pub fn refusal_message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let told =
        [&error["message"], error, &value["message"], &value["detail"]].into_iter().find_map(Value::as_str);
    told.map_or_else(|| shortened(String::from_utf8_lossy(body).trim()), str::to_owned)
}

/// The same with OpenAI's code, short enough for a report.
pub(crate) fn refusal(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = value["error"]["code"].as_str().map(|code| format!(" ({code})"));
    shortened(&(refusal_message(body) + &code.unwrap_or_default()))
}

fn shortened(words: &str) -> String {
    words.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn every_servers_message_is_found() {
        for (body, expected) in [
            (
                r#"{"error":{"message":"too long","type":"x","code":"context_length_exceeded"}}"#,
                "too long (context_length_exceeded)",
            ),
            (r#"{"error":{"code":400,"message":"too long"}}"#, "too long"),
            (r#"{"object":"error","message":"too long","code":400}"#, "too long"),
            (r#"{"error":"too long","error_type":"validation"}"#, "too long"),
            (r#"{"detail":"too long"}"#, "too long"),
            ("<html>too long</html>\n", "<html>too long</html>"),
            ("", ""),
        ] {
            assert_eq!(refusal(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(refusal("é".repeat(1000).as_bytes()).chars().count(), 300);
    }
}
