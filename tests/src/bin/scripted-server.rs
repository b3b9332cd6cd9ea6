//! An OpenAI-compatible server that does what its arguments say, to see what the agent makes of it.

#![allow(clippy::unwrap_used, reason = "a test program that cannot go on panics and says where")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

/// Answers with as many words as it is told.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
    /// Before the first word.
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Between words.
    #[arg(long, default_value_t = 0)]
    word_ms: u64,
    #[arg(long, default_value_t = 8)]
    words: usize,
    /// Every so many requests one fails with status 500; 0 never.
    #[arg(long, default_value_t = 0)]
    fail_every: u64,
    /// Every so many requests one breaks off before its first word; 0 never.
    #[arg(long, default_value_t = 0)]
    break_every: u64,
    /// Ends at this request; 0 never.
    #[arg(long, default_value_t = 0)]
    crash_at: u64,
    /// What every answer says instead of words.
    #[arg(long)]
    says: Option<String>,
    /// From this request on, answers with JSON that is none of the API's; 0 never.
    #[arg(long, default_value_t = 0)]
    strange_from: u64,
    /// From this request on, never answers; 0 never.
    #[arg(long, default_value_t = 0)]
    hang_from: u64,
    /// From this request on, refuses each as malformed; 0 never.
    #[arg(long, default_value_t = 0)]
    refuse_from: u64,
    /// Has no chat template, and says so.
    #[arg(long)]
    completes_only: bool,
    /// Has no chat template, and hangs up when it is asked to chat.
    #[arg(long)]
    hangs_up_on_chats: bool,
    /// Never says that it is ready.
    #[arg(long)]
    never_ready: bool,
    /// Passes over SIGTERM.
    #[arg(long)]
    ignore_term: bool,
    /// Writes so many lines at once when it starts.
    #[arg(long, default_value_t = 0)]
    flood: usize,
    /// Starts a child of its own, which sleeps.
    #[arg(long)]
    grandchild: bool,
    /// Tells metrics by the names of this server: vllm, sglang, llamacpp or tgi.
    #[arg(long)]
    metrics: Option<String>,
    /// Can be sent to sleep as vLLM can; asleep it answers nobody.
    #[arg(long)]
    sleeps: bool,
}

/// What it has done.
#[derive(Default)]
struct Done {
    asked: AtomicU64,
    answered: AtomicU64,
    asleep: AtomicBool,
}

fn main() {
    let arguments = Arc::new(Arguments::parse());
    if arguments.ignore_term {
        // Taken and never looked at.
        let mut signals = nix::sys::signal::SigSet::empty();
        signals.add(nix::sys::signal::Signal::SIGTERM);
        signals.thread_block().unwrap();
    }
    if arguments.grandchild {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::thread::spawn(move || child.wait());
    }
    (0..arguments.flood).for_each(|line| println!("line {line} of a flood"));
    let done = Arc::new(Done::default());
    for stream in TcpListener::bind(("127.0.0.1", arguments.port)).unwrap().incoming() {
        let (arguments, done) = (Arc::clone(&arguments), Arc::clone(&done));
        // A client that goes away ends its connection, nothing else.
        std::thread::spawn(move || drop(serve(stream.unwrap(), &arguments, &done)));
    }
}

fn serve(mut stream: TcpStream, arguments: &Arguments, done: &Done) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    match path {
        "/health" if arguments.never_ready => answer(&mut stream, 503, &json!({})),
        "/health" => answer(&mut stream, 200, &json!({})),
        "/v1/models" => answer(&mut stream, 200, &json!({ "data": [{ "id": "scripted" }] })),
        "/metrics" if arguments.metrics.is_some() => {
            let text = metrics(arguments.metrics.as_deref().unwrap_or_default(), done);
            let length = text.len();
            write!(
                stream,
                "HTTP/1.1 200 x\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
            )
        }
        "/metrics" => answer(&mut stream, 404, &json!({})),
        "/is_sleeping" if arguments.sleeps => {
            answer(&mut stream, 200, &json!({ "is_sleeping": done.asleep.load(Ordering::SeqCst) }))
        }
        "/sleep?level=1" | "/wake_up" if arguments.sleeps => {
            done.asleep.store(path != "/wake_up", Ordering::SeqCst);
            answer(&mut stream, 200, &json!({}))
        }
        "/is_sleeping" | "/api/ps" => answer(&mut stream, 404, &json!({})),
        "/v1/chat/completions" if arguments.completes_only => {
            answer(&mut stream, 400, &json!({ "error": { "message": "provide a chat template" } }))
        }
        "/v1/chat/completions" if arguments.hangs_up_on_chats => Ok(()),
        _ if done.asleep.load(Ordering::SeqCst) => answer(&mut stream, 503, &json!({ "message": "asleep" })),
        _ => {
            let outcome =
                complete(&mut stream, &body, arguments, done.asked.fetch_add(1, Ordering::SeqCst) + 1);
            done.answered.fetch_add(1, Ordering::SeqCst);
            outcome
        }
    }
}

/// As if every answer had taken between 80 and 160 ms to its first token, and had eight of them.
fn metrics(dialect: &str, done: &Done) -> String {
    let (asked, answered) = (done.asked.load(Ordering::SeqCst), done.answered.load(Ordering::SeqCst));
    let running = asked - answered;
    let tokens = answered * 8;
    let ttft = |name: &str, labels: &str| {
        let bucket = |bound: &str, count: u64| format!("{name}_bucket{{le=\"{bound}\"{labels}}} {count}\n");
        bucket("0.08", 0) + &bucket("0.16", answered) + &bucket("0.32", answered) + &bucket("+Inf", answered)
    };
    match dialect {
        "vllm" => {
            let labels = "engine=\"0\",model_name=\"scripted\"";
            format!(
                "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{{labels}}} {running}.0\n\
                 vllm:num_requests_waiting{{{labels}}} 3.0\nvllm:kv_cache_usage_perc{{{labels}}} 0.25\n\
                 vllm:prefix_cache_queries_total{{{labels}}} {asked}0.0\n\
                 vllm:prefix_cache_hits_total{{{labels}}} {asked}.0\n\
                 vllm:generation_tokens_total{{{labels}}} {tokens}.0\n\
                 vllm:request_success_total{{finished_reason=\"stop\",{labels}}} {answered}.0\n{}",
                ttft("vllm:time_to_first_token_seconds", &format!(",{labels}"))
            )
        }
        "sglang" => {
            let labels = "model_name=\"scripted\"";
            format!(
                "sglang:num_running_reqs{{{labels}}} {running}\nsglang:num_queue_reqs{{{labels}}} 3\n\
                 sglang:token_usage{{{labels}}} 0.25\nsglang:generation_tokens_total{{{labels}}} {tokens}\n\
                 sglang:num_requests_total{{{labels}}} {answered}\n{}",
                ttft("sglang:time_to_first_token_seconds", &format!(",{labels}"))
            )
        }
        "tgi" => format!(
            "tgi_batch_current_size {running}\ntgi_queue_size 3\ntgi_request_success {answered}\n\
             tgi_request_generated_tokens_sum {tokens}\n{}",
            ttft("tgi_request_duration", "")
        ),
        _ => format!(
            "llamacpp:requests_processing {running}\nllamacpp:requests_deferred 3\n\
             llamacpp:kv_cache_usage_ratio 0.25\nllamacpp:tokens_predicted_total {tokens}\n"
        ),
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn complete(stream: &mut TcpStream, body: &[u8], arguments: &Arguments, number: u64) -> std::io::Result<()> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let every = |count: u64| count > 0 && number.is_multiple_of(count);
    if arguments.crash_at > 0 && number >= arguments.crash_at {
        eprintln!("CUDA out of memory");
        std::process::exit(3);
    }
    let strange = arguments.strange_from > 0 && number >= arguments.strange_from;
    if strange && request["stream"] != json!(true) {
        return answer(stream, 200, &json!([1]));
    }
    if strange {
        return write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: 5\n\n");
    }
    if arguments.hang_from > 0 && number >= arguments.hang_from {
        std::thread::sleep(Duration::from_secs(600));
    }
    if arguments.refuse_from > 0 && number >= arguments.refuse_from {
        return answer(stream, 400, &json!({ "error": { "message": "not of my kind" } }));
    }
    if every(arguments.fail_every) {
        return answer(stream, 500, &json!({ "error": { "message": "scripted failure" } }));
    }
    let words: Vec<String> = match &arguments.says {
        Some(text) => vec![text.clone()],
        None => (0..arguments.words).map(|word| format!("word{word} ")).collect(),
    };
    std::thread::sleep(Duration::from_millis(arguments.first_ms));
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": words.len() });
    if request["stream"] != json!(true) {
        std::thread::sleep(Duration::from_millis(arguments.word_ms * words.len() as u64));
        let message = json!({ "role": "assistant", "content": words.concat() });
        let choice = if request["prompt"].is_string() {
            json!({ "index": 0, "text": words.concat(), "finish_reason": "stop" })
        } else {
            json!({ "index": 0, "message": message, "finish_reason": "stop" })
        };
        return answer(stream, 200, &json!({ "model": "scripted", "choices": [choice], "usage": usage }));
    }
    // What takes no time goes out as a whole: a crash of the server then breaks off no answer that has begun.
    let mut out = std::io::BufWriter::with_capacity(1 << 16, stream);
    write!(out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    if every(arguments.break_every) {
        return out.flush();
    }
    let mut part = |choices: Value, usage: Value, pause_ms: u64| {
        let part = json!({ "model": "scripted", "choices": choices, "usage": usage });
        write!(out, "data: {part}\n\n")?;
        if pause_ms > 0 {
            out.flush()?;
            std::thread::sleep(Duration::from_millis(pause_ms));
        }
        Ok::<(), std::io::Error>(())
    };
    for word in &words {
        let choice = json!([{ "index": 0, "delta": { "content": word }, "finish_reason": null }]);
        part(choice, Value::Null, arguments.word_ms)?;
    }
    part(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]), Value::Null, 0)?;
    if request["stream_options"]["include_usage"] == json!(true) {
        part(json!([]), usage, 0)?;
    }
    write!(out, "data: [DONE]\n\n")?;
    out.flush()
}
