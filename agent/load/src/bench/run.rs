use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::Arrivals;
use super::block::{Block, Latency};
use super::failures::Failures;
use super::pacing::pace;
use super::prompts::{Asked, Length, Prompts};
use crate::client::{ChatError, ChatOutcome, StreamClient};

/// Stretches of time that a run is cut into; intervals come from them.
const BLOCKS: u32 = 40;
/// Stretches at the beginning of a run whose length is not known; they are joined as it goes on.
const SHORTEST_BLOCK: Duration = Duration::from_millis(5);
const MOST_BLOCKS: usize = 4_096;
/// Words that are sent to learn how many tokens a word is.
const CALIBRATION_WORDS: u64 = 40;
const NOT_SENT: &str = "not sent, too many under way";

/// Which endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Api {
    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// How requests follow each other.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadShape {
    /// At their times, whatever the server does.
    Open {
        /// When.
        arrivals: Arrivals,
        /// Mean requests a second.
        rate_per_s: f64,
    },
    /// So many users, each of whom asks again when the answer is there.
    Closed {
        /// How many.
        concurrency: usize,
    },
}

/// What makes an answer good; goodput counts those.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objectives {
    /// Longest from due to the first token.
    pub ttft: Option<Duration>,
    /// Longest a token after the first.
    pub tpot: Option<Duration>,
    /// Longest from due to the end.
    pub e2e: Option<Duration>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Such as `http://127.0.0.1:8080`.
    pub server: String,
    /// Which endpoint.
    pub api: Api,
    /// OpenAI's `model`.
    pub model: String,
    /// Sent as bearer token, never shown.
    pub key: Option<String>,
    /// How requests follow each other.
    pub shape: LoadShape,
    /// What is asked.
    pub prompts: Prompts,
    /// Tokens of answers.
    pub answer: Length,
    /// Whether answers go on to their length where the server can do that.
    pub ignore_end: bool,
    /// Sent, but not measured.
    pub warm_up: Duration,
    /// Measured; where it is absent, `requests` ends the run.
    pub duration: Option<Duration>,
    /// Most requests that are measured.
    pub requests: Option<u64>,
    /// A request that takes longer has failed.
    pub patience: Duration,
    /// Requests under way at once; one that is due beyond it has failed.
    pub max_in_flight: usize,
    /// Of times, prompts and lengths.
    pub seed: u64,
    /// What counts as good.
    pub objectives: Objectives,
    /// Words that make a token; see [`calibrate`].
    pub words_per_token: f64,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server cannot be asked.
    #[error(transparent)]
    Client(#[from] ChatError),
    /// The system refused a thread.
    #[error("the thread that paces requests could not start: {0}")]
    Thread(#[from] std::io::Error),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Since the measured part began; zero during the warm-up.
    pub elapsed: Duration,
    /// Requests under way.
    pub in_flight: u64,
    /// Whole answers, measured ones.
    pub ok: u64,
    /// Requests without one.
    pub failed: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

/// What a run measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// In order of time.
    pub blocks: Vec<Block>,
    /// Requests without an answer.
    pub failures: Failures,
    /// Length of the measured part.
    pub seconds: f64,
    /// Cut off with an answer under way.
    pub unfinished: u64,
    /// Cores that this process used.
    pub cpu_cores: Option<f64>,
}

struct Collector {
    measured: Measured,
    block: Duration,
    begin: Instant,
    in_flight: u64,
    last_end: Instant,
}

/// Learns how many words make a token, by one request: 1 where the server does not count.
///
/// # Errors
/// When the server does not answer; so a wrong address shows before the run.
pub async fn calibrate(plan: &Plan) -> Result<f64, BenchError> {
    let client = StreamClient::new(&plan.server, plan.api.path(), plan.key.as_deref(), plan.patience)?;
    let length = Length::Fixed(CALIBRATION_WORDS);
    let prompts = Prompts::Synthetic { length, shared_prefix: None, turns: 1 };
    let asked = prompts.question(plan.seed, 0, 1.0);
    let outcome = client.ask(body(plan, &asked, 1)).await?;
    let tokens = outcome.usage.map_or(0, |usage| usage.prompt_tokens);
    Ok(if tokens == 0 { 1.0 } else { CALIBRATION_WORDS as f64 / tokens as f64 })
}

/// Runs a plan to its end, or until `stop`; what was measured until then is kept.
///
/// # Errors
/// When the server's address is no URL, or the system has no thread left.
pub async fn run(
    plan: &Plan,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
) -> Result<Measured, BenchError> {
    let client = StreamClient::new(&plan.server, plan.api.path(), plan.key.as_deref(), plan.patience)?;
    let start = Instant::now();
    let begin = start + plan.warm_up;
    let cpu_before = cpu_seconds();
    let block = plan.duration.map_or(SHORTEST_BLOCK, |duration| duration / BLOCKS);
    let collector = Collector { measured: Measured::default(), block, begin, in_flight: 0, last_end: begin };
    let sender = Arc::new(Sender {
        plan: plan.clone(),
        client,
        begin,
        collector: Mutex::new(collector),
        progress,
        places: Arc::new(Semaphore::new(plan.max_in_flight.max(1))),
    });
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let whole = plan.duration.map(|duration| plan.warm_up + duration);
    match &plan.shape {
        LoadShape::Open { arrivals, rate_per_s } => {
            let due = arrivals.due(*rate_per_s, StdRng::seed_from_u64(plan.seed));
            let mut due = pace(due, start, whole, stop.clone())?;
            let mut measured = 0;
            while let Some((number, at)) = due.recv().await {
                if at >= begin {
                    if plan.requests.is_some_and(|most| measured >= most) {
                        break;
                    }
                    measured += 1;
                }
                sender.spawn(&tasks, &cut, number, at);
            }
        }
        LoadShape::Closed { concurrency } => {
            let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let measured = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let users: Vec<_> = (0..*concurrency)
                .map(|_| {
                    let (sender, next, measured) =
                        (Arc::clone(&sender), Arc::clone(&next), Arc::clone(&measured));
                    let (stop, cut, end) = (stop.clone(), cut.clone(), whole.map(|whole| start + whole));
                    tokio::spawn(async move {
                        use std::sync::atomic::Ordering::Relaxed;
                        loop {
                            let now = Instant::now();
                            let over = end.is_some_and(|end| now >= end) || stop.is_cancelled();
                            let counted = now >= sender.begin;
                            let enough = sender
                                .plan
                                .requests
                                .is_some_and(|most| counted && measured.fetch_add(1, Relaxed) >= most);
                            if over || enough {
                                return;
                            }
                            sender.one(&cut, next.fetch_add(1, Relaxed), now).await;
                        }
                    })
                })
                .collect();
            let cutting = cut_when_stopped(stop.clone(), cut.clone());
            for user in users {
                // A user's panic is in the log; the others go on.
                let _ = user.await;
            }
            cutting.abort();
        }
    }
    let cutting = cut_when_stopped(stop, cut);
    tasks.close();
    tasks.wait().await;
    cutting.abort();
    let cpu = cpu_seconds() - cpu_before;
    let mut collector = sender.lock();
    let end = collector.last_end.max(whole.map_or(begin, |whole| (start + whole).min(Instant::now())));
    let seconds = end.saturating_duration_since(begin).as_secs_f64();
    let mut measured = std::mem::take(&mut collector.measured);
    measured.seconds = seconds;
    measured.cpu_cores = Some(cpu / start.elapsed().as_secs_f64().max(1e-9));
    Ok(measured)
}

/// What is under way when a run is stopped is not waited for.
fn cut_when_stopped(stop: CancellationToken, cut: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        stop.cancelled().await;
        cut.cancel();
    })
}

struct Sender {
    plan: Plan,
    client: StreamClient,
    begin: Instant,
    collector: Mutex<Collector>,
    progress: watch::Sender<Progress>,
    places: Arc<Semaphore>,
}

impl Sender {
    fn lock(&self) -> std::sync::MutexGuard<'_, Collector> {
        self.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>, tasks: &TaskTracker, cut: &CancellationToken, number: u64, due: Instant) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let mut collector = self.lock();
            if let Some(block) = collector.block_of(due) {
                block.due += 1;
                block.failed += 1;
                collector.measured.failures.add(NOT_SENT, 1, NOT_SENT);
            }
            return;
        };
        let (sender, cut) = (Arc::clone(self), cut.clone());
        tasks.spawn(async move {
            sender.one(&cut, number, due).await;
            drop(place);
        });
    }

    async fn one(&self, cut: &CancellationToken, number: u64, due: Instant) {
        let asked = self.plan.prompts.question(self.plan.seed, number, self.plan.words_per_token);
        let tokens = asked.max_tokens.unwrap_or_else(|| self.plan.answer_tokens(number));
        let body = body(&self.plan, &asked, tokens);
        let sent = Instant::now();
        self.lock().in_flight += 1;
        let answered = cut.run_until_cancelled(self.client.ask(body)).await;
        let progress = {
            let mut collector = self.lock();
            collector.in_flight -= 1;
            match answered {
                Some(answered) => collector.take(due, sent, &answered, self.plan.objectives),
                None if due >= self.begin => collector.measured.unfinished += 1,
                None => {}
            }
            collector.progress()
        };
        self.progress.send_replace(progress);
    }
}

impl Plan {
    fn answer_tokens(&self, number: u64) -> u64 {
        let mut rng = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        self.answer.draw(&mut rng)
    }
}

fn body(plan: &Plan, asked: &Asked, max_tokens: u64) -> Bytes {
    let mut body = json!({
        "model": plan.model, "stream": true, "stream_options": { "include_usage": true },
        "max_tokens": max_tokens, "temperature": 0,
    });
    match plan.api {
        Api::Chat => body["messages"] = Value::Array(asked.messages.clone()),
        Api::Completions => body["prompt"] = Value::String(asked.text()),
    }
    if plan.ignore_end {
        body["ignore_eos"] = Value::Bool(true);
    }
    body.to_string().into()
}

impl Collector {
    /// `None` during the warm-up.
    fn block_of(&mut self, due: Instant) -> Option<&mut Block> {
        let since = due.checked_duration_since(self.begin)?;
        let index_of = |block: Duration| (since.as_secs_f64() / block.as_secs_f64().max(1e-6)) as usize;
        while index_of(self.block) >= MOST_BLOCKS {
            self.join_pairs();
        }
        let index = index_of(self.block);
        if self.measured.blocks.len() <= index {
            self.measured.blocks.resize_with(index + 1, Block::default);
        }
        self.measured.blocks.get_mut(index)
    }

    fn join_pairs(&mut self) {
        self.block *= 2;
        let pairs = std::mem::take(&mut self.measured.blocks);
        self.measured.blocks = pairs
            .chunks(2)
            .map(|pair| {
                let mut joined = Block::default();
                pair.iter().for_each(|block| joined.merge(block));
                joined
            })
            .collect();
    }

    fn take(
        &mut self,
        due: Instant,
        sent: Instant,
        answered: &Result<ChatOutcome, ChatError>,
        objectives: Objectives,
    ) {
        let Some(block) = self.block_of(due) else { return };
        block.due += 1;
        block.record(Latency::Lateness, micros(sent.saturating_duration_since(due)));
        match answered {
            Err(error) => {
                block.failed += 1;
                self.measured.failures.count(error);
            }
            Ok(outcome) => {
                block.take(due, sent, outcome, objectives);
                self.last_end = self.last_end.max(outcome.ended.into_std());
            }
        }
    }

    fn progress(&self) -> Progress {
        let blocks = &self.measured.blocks;
        Progress {
            elapsed: Instant::now().saturating_duration_since(self.begin),
            in_flight: self.in_flight,
            ok: blocks.iter().map(|block| block.ok).sum(),
            failed: blocks.iter().map(|block| block.failed).sum(),
            completion_tokens: blocks.iter().map(|block| block.completion_tokens).sum(),
        }
    }
}

impl Block {
    fn take(&mut self, due: Instant, sent: Instant, outcome: &ChatOutcome, objectives: Objectives) {
        let parts: Vec<Instant> = outcome.tokens.iter().map(|at| at.into_std()).collect();
        let ended = outcome.ended.into_std();
        let tokens = outcome.usage.map_or(parts.len() as u64, |usage| usage.completion_tokens);
        self.ok += 1;
        self.prompt_tokens += outcome.usage.map_or(0, |usage| usage.prompt_tokens);
        self.completion_tokens += tokens;
        let e2e = ended.saturating_duration_since(due);
        self.record(Latency::E2e, micros(e2e));
        for pair in parts.windows(2) {
            self.record(Latency::Itl, micros(pair[1].saturating_duration_since(pair[0])));
        }
        let first = parts.first().copied();
        let ttft = first.map(|first| first.saturating_duration_since(due));
        if let Some((first, ttft)) = first.zip(ttft) {
            self.record(Latency::Ttft, micros(ttft));
            self.record(Latency::TtftFromSend, micros(first.saturating_duration_since(sent)));
        }
        let tpot = match (parts.first(), parts.last()) {
            (Some(first), Some(last)) if tokens > 1 => {
                let time = last.saturating_duration_since(*first);
                Some(Duration::from_secs_f64(time.as_secs_f64() / (tokens - 1) as f64))
            }
            _ => None,
        };
        if let Some(tpot) = tpot {
            self.record(Latency::Tpot, micros(tpot));
        }
        let within = |limit: Option<Duration>, time: Option<Duration>| {
            limit.is_none_or(|limit| time.is_none_or(|time| time <= limit))
        };
        let good = within(objectives.ttft, ttft)
            && within(objectives.tpot, tpot)
            && within(objectives.e2e, Some(e2e));
        self.good += u64::from(good);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds of CPU that this process has used (proc(5), `/proc/self/stat`); zero where it cannot be read.
fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    // The unit of that file is 1/100 s on every Linux that runs programs of today.
    ticks / 100.0
}
