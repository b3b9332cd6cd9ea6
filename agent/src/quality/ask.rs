use std::time::Duration;

use llmdeck_engine::EngineError;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::generation::{GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use tokio::sync::mpsc;

use crate::backend::{Backend, ClientError, Upstream};
use crate::placement::Variant;

/// How long another server may take for one of the agent's own questions.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why the agent's own question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The model cannot be asked this.
    #[error("prompt {prompt:?}: {source}")]
    Prompt {
        /// Its beginning.
        prompt: String,
        /// What the engine said.
        source: EngineError,
    },
    /// The other server did not answer.
    #[error("prompt {prompt:?}: {source}")]
    Server {
        /// Its beginning.
        prompt: String,
        /// What happened.
        source: ClientError,
    },
    /// The engine failed while it answered.
    #[error("prompt {prompt:?}: {reason}")]
    Answer {
        /// Its beginning.
        prompt: String,
        /// In words.
        reason: String,
    },
}

/// Asks as a user would, greedily and behind every user. It counts in nobody's latency.
///
/// # Errors
/// When the prompt does not fit the model, or what answers fails.
pub async fn ask(backend: &Backend, prompt: &str, max_tokens: usize) -> Result<String, AskError> {
    match backend {
        Backend::Engine(engine) => ask_engine(engine, prompt, max_tokens).await,
        Backend::Upstream(upstream) => ask_server(upstream, prompt, max_tokens).await,
    }
}

async fn ask_server(upstream: &Upstream, prompt: &str, max_tokens: usize) -> Result<String, AskError> {
    let failed = |source| AskError::Server { prompt: prompt.chars().take(40).collect(), source };
    let down =
        || failed(ClientError::Broken(upstream.trouble().unwrap_or_else(|| "the server is down".into())));
    let client = upstream.client().ok_or_else(down)?;
    let asking = client.ask(upstream.model(), upstream.prompt(), prompt, max_tokens);
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(ClientError::Broken(format!("no answer within {} s", PATIENCE.as_secs())))),
    }
}

async fn ask_engine(engine: &Variant, prompt: &str, max_tokens: usize) -> Result<String, AskError> {
    let beginning = || prompt.chars().take(40).collect::<String>();
    let refused = |source| AskError::Prompt { prompt: beginning(), source };
    let failed = |reason| AskError::Answer { prompt: beginning(), reason };
    let model = engine.model();
    let text = match &model.chat_template {
        Some(template) => template
            .render(&engine.with_prompt(vec![Message { role: "user".into(), content: prompt.to_owned() }]))
            .map_err(refused)?,
        None => prompt.to_owned(),
    };
    let request = GenerationRequest {
        prompt: model.tokenizer.encode(&text).map_err(refused)?,
        max_tokens,
        sampling: SamplingOptions::greedy(),
        stops: Vec::new(),
        priority: Priority::Background,
        fairness_key: 0,
        constraint: None,
        ignore_end: false,
        adapter: engine.adapter().cloned(),
        cpu_time: None,
    };
    let (sender, mut events) = mpsc::channel(max_tokens.min(engine.max_sequence_tokens()) + 3);
    let sink = Box::new(move |event| match sender.try_send(event) {
        Ok(()) => Listener::Present,
        Err(_) => Listener::Gone,
    });
    engine.submit(request, sink).map_err(refused)?;
    let mut answer = String::new();
    while let Some(event) = events.recv().await {
        match event {
            GenerationEvent::Started => {}
            GenerationEvent::Token(token) => answer.push_str(&token.text),
            GenerationEvent::Finished { text, .. } => return Ok(answer + &text),
            GenerationEvent::Failed(reason) => return Err(failed(reason)),
        }
    }
    Err(failed(EngineError::Stopped.to_string()))
}
