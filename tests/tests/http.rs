//! The OpenAI API as clients and their mistakes meet it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use llmdeck_load::ChatError;
use llmdeck_tests::{ASSISTANT, AgentProcess, Response, raw, send, traffic, wait_for};
use serde_json::{Value, json};

fn chat(agent: &AgentProcess, body: &Value) -> Response {
    send(agent, "POST", "/v1/chat/completions", &body.to_string())
}

fn question(text: &str) -> Value {
    json!({ "model": "assistant", "temperature": 0, "messages": [{ "role": "user", "content": text }] })
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_openais() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let whole = chat(&agent, &with(question("compute 52 + 28"), "logprobs", json!(true)));
    assert_eq!(whole.status, 200);
    assert!(whole.head.contains("x-llmdeck-revision: assistant@1"), "{}", whole.head);
    let body = whole.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], "80");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(body["system_fingerprint"].as_str().unwrap().starts_with("assistant@1-"));
    let logprobs = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs.len() as u64, body["usage"]["completion_tokens"].as_u64().unwrap());
    assert!(logprobs.iter().all(|entry| entry["logprob"].as_f64().unwrap() <= 0.0));

    let options = json!({ "include_usage": true });
    let streamed = with(with(question("compute 52 + 28"), "stream", json!(true)), "stream_options", options);
    let streamed = chat(&agent, &streamed);
    let parts: Vec<&str> = streamed.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(parts.last(), Some(&"[DONE]"));
    let parts: Vec<Value> =
        parts[..parts.len() - 1].iter().map(|part| serde_json::from_str(part).unwrap()).collect();
    let text: String =
        parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "80");
    let usage = parts.last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &body["usage"]));

    let cut = chat(&agent, &with(question("compute 52 + 28"), "max_tokens", json!(1))).json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let stopped = chat(&agent, &with(question("compute 52 + 28"), "stop", json!("0"))).json();
    assert_eq!(stopped["choices"][0]["message"]["content"], "8");

    let models = send(&agent, "GET", "/v1/models", "").json();
    assert_eq!(models["data"][0]["id"], "assistant");
    let completion = json!({ "model": "assistant", "prompt": "compute", "max_tokens": 3, "temperature": 0 });
    let completion = send(&agent, "POST", "/v1/completions", &completion.to_string()).json();
    assert_eq!(
        (&completion["object"], &completion["usage"]["completion_tokens"]),
        (&json!("text_completion"), &json!(3))
    );
    let metrics = wait_for("the counted requests", async || {
        let metrics = send(&agent, "GET", "/metrics", "").body;
        metrics
            .contains("llmdeck_requests_total{model=\"assistant\",revision=\"1\",outcome=\"ok\"} 6")
            .then_some(metrics)
    });
    assert!(metrics.await.contains("gen_ai_server_time_to_first_token_seconds_bucket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_format_that_was_asked_for() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let schema = json!({
        "type": "object",
        "properties": { "total": { "type": "integer" }, "sure": { "type": "boolean" } },
        "required": ["total", "sure"],
        "additionalProperties": false,
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "sum", "strict": true, "schema": schema } });
    let content = |response: &Response| {
        response.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let asked = with(question("compute 52 + 28"), "response_format", format);
    let answer: Value = serde_json::from_str(&content(&chat(&agent, &asked))).unwrap();
    assert!(answer["total"].is_i64() && answer["sure"].is_boolean(), "{answer}");

    let structured = |outputs: Value| with(question("compute 52 + 28"), "structured_outputs", outputs);
    let choice = chat(&agent, &structured(json!({ "choice": ["eighty", "seventy"] })));
    assert!(["eighty", "seventy"].contains(&content(&choice).as_str()));
    let regex =
        json!({ "model": "assistant", "prompt": "x", "structured_outputs": { "regex": "v[0-9]{2}" } });
    let completion = send(&agent, "POST", "/v1/completions", &regex.to_string()).json();
    let text = completion["choices"][0]["text"].as_str().unwrap();
    assert!(text.len() == 3 && text.starts_with('v') && text[1..].parse::<u8>().is_ok(), "{text}");

    let refused = chat(&agent, &structured(json!({ "json": { "type": "colour" } })));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("structured_outputs")));
    let metrics = wait_for("the cost in the metrics", async || {
        let metrics = send(&agent, "GET", "/metrics", "").body;
        let line = metrics.lines().find(|line| line.starts_with("llmdeck_constrained_tokens_total"))?;
        line.rsplit(' ').next()?.parse::<u64>().ok().filter(|tokens| *tokens > 10)
    });
    metrics.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named_and_the_agent_lives_on() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let ok = || question("compute 52 + 28");
    for (body, status, param) in [
        (with(ok(), "temperature", json!("hot")), 400, json!("temperature")),
        (with(ok(), "temperature", json!(9)), 400, json!("temperature")),
        (with(ok(), "top_logprobs", json!(3)), 400, json!("top_logprobs")),
        (with(ok(), "messages", json!([])), 400, json!("messages")),
        (with(ok(), "logit_bias", json!({ "9999999": 1 })), 400, json!("logit_bias")),
        (
            with(ok(), "messages", json!([{ "role": "robot", "content": "x" }])),
            400,
            json!("messages[0].role"),
        ),
        (
            with(ok(), "messages", json!([{ "role": "user", "content": "x".repeat(4_000) }])),
            400,
            json!("messages"),
        ),
        (with(ok(), "response_format", json!({ "type": "xml" })), 400, json!("response_format.type")),
        (with(ok(), "model", json!("nonesuch")), 404, json!("model")),
    ] {
        let response = chat(&agent, &body);
        let error = &response.json()["error"];
        assert_eq!((response.status, &error["param"]), (status, &param), "{}", response.body);
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert!(chat(&agent, &with(ok(), "model", json!("nonesuch"))).body.contains("there is assistant"));
    assert_eq!(send(&agent, "POST", "/v1/chat/completions", "{\"model\":").status, 400);
    assert_eq!(send(&agent, "POST", "/v1/chat/completions", &"[".repeat(100_000)).status, 400);
    assert_eq!(send(&agent, "GET", "/v1/chat/completions", "").status, 405);
    assert_eq!(send(&agent, "GET", "/nowhere", "").status, 404);
    let huge = with(ok(), "messages", json!([{ "role": "user", "content": "x".repeat(5 << 20) }]));
    assert_eq!(chat(&agent, &huge).status, 413);
    raw(&agent, &[0, 159, 146, 150, 13, 10, 13, 10]);
    raw(&agent, b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n");

    let mut socket = UnixStream::connect(agent.socket()).unwrap();
    socket.write_all(&[0xff; 4_096]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = socket.read_to_end(&mut Vec::new());
    assert_eq!(agent.ready().await, "assistant@1");
    assert!(agent.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_turns_away_with_the_time_to_come_back() {
    let agent = AgentProcess::start(&format!("{ASSISTANT}max_concurrent = 1\nqueue_limit = 1\n"));
    agent.ready().await;
    let client = agent.client("assistant");
    let asked = (0..200).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.ask("sum of 1 and 50?").await })
    });
    let mut turned_away = 0;
    for answer in asked.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Ok(outcome) => assert_eq!(outcome.text, "51"),
            Err(ChatError::Status { status: 429, message }) => {
                assert!(message.contains("queue_full"), "{message}");
                turned_away += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(turned_away > 0, "one at a time took all of 24 at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_serve_says_so_with_503_and_is_not_ready() {
    let config = ASSISTANT.replace("model = \"assistant\"", "model = \"missing.gguf\"");
    let agent = AgentProcess::start(&config);
    let why = wait_for("the reason", async || {
        let ready = send(&agent, "GET", "/readyz", "");
        (ready.status == 503 && ready.body.contains("missing.gguf")).then_some(ready)
    });
    assert_eq!(why.await.json()["ready"], false);
    assert_eq!(send(&agent, "GET", "/healthz", "").status, 200);
    let refused = chat(&agent, &question("compute 52 + 28"));
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after"), "{}", refused.head);
    assert!(refused.body.contains("missing.gguf"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let body = json!({
        "model": "assistant", "stream": true, "max_tokens": 400, "ignore_eos": true,
        "messages": [{ "role": "user", "content": "compute 52 + 28" }],
    })
    .to_string();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let request = head + &body;
    // The engine may be through before a client that was held up has left; one of several is quick enough.
    wait_for("a cancelled request", async || {
        let mut stream = TcpStream::connect(agent.http()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 200]).unwrap();
        drop(stream);
        let metrics = send(&agent, "GET", "/metrics", "").body;
        let count =
            metrics.lines().find(|line| line.contains("outcome=\"cancelled\""))?.rsplit(' ').next()?;
        count.parse::<u64>().ok().filter(|count| *count > 0).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_what_runs_finish_and_says_how_many() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let load = traffic(&agent, 40.0);
    wait_for("traffic", async || (load.report().ok > 20).then_some(())).await;
    agent.terminate();
    let (status, log) = tokio::task::block_in_place(|| agent.wait());
    assert!(status.success());
    let stopped = log.iter().find(|entry| entry["fields"]["message"] == "stopped");
    let fields = &stopped.unwrap_or_else(|| panic!("{log:?}"))["fields"];
    assert_eq!(fields["cut_off"], 0, "{fields}");
    let report = load.stop().await;
    let broken: Vec<&String> = report
        .errors
        .keys()
        .filter(|words| !words.contains("503") && !words.contains("refused") && !words.contains("closed"))
        .collect();
    assert!(broken.is_empty(), "an answer was cut off: {:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_longer_than_it_may_is_ended_with_504() {
    let agent = Arc::new(AgentProcess::start(&format!("{ASSISTANT}max_concurrent = 1\ndeadline_s = 1\n")));
    agent.ready().await;
    // A digit without end.
    let body = json!({
        "model": "assistant", "prompt": "7", "max_tokens": 480, "temperature": 0, "logit_bias": { "20": 100 },
    })
    .to_string();
    let asked = (0..200).map(|_| {
        let (agent, body) = (Arc::clone(&agent), body.clone());
        tokio::task::spawn_blocking(move || send(&agent, "POST", "/v1/completions", &body))
    });
    let (mut whole, mut late) = (0, 0);
    for response in asked.collect::<Vec<_>>() {
        let response = response.await.unwrap();
        match response.status {
            200 => whole += 1,
            504 => {
                assert_eq!(response.json()["error"]["code"], "deadline_exceeded");
                late += 1;
            }
            other => panic!("{other}: {}", response.body),
        }
    }
    assert!(whole > 0 && late > 0, "{whole} whole, {late} late");
    assert_eq!(agent.ready().await, "assistant@1");
}
