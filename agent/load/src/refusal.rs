//! What a server says when it refuses a request.

use serde_json::Value;

/// Characters of it that are kept.
const LONGEST: usize = 300;

/// The message of a body as OpenAI, vLLM, llama.cpp, TGI, Ollama or FastAPI write it, with OpenAI's code; else the body's beginning.
pub(crate) fn refusal(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let told =
        [&error["message"], error, &value["message"], &value["detail"]].into_iter().find_map(Value::as_str);
    let words = match (told, error["code"].as_str()) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        (Some(message), None) => message.to_owned(),
        (None, _) => String::from_utf8_lossy(body).trim().to_owned(),
    };
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
