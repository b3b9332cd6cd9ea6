//! The compute thread: takes requests, plans steps, runs them, hands out tokens.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

pub use llmdeck_kernels::attention::CacheFormat;

use crate::EngineError;
use crate::blocks::BlockPool;
use crate::decoder::Chunk;
use crate::device::Device;
use crate::executor::Executor;
use crate::footprint::{block_bytes, cache_blocks, context_tokens, max_logit_rows, max_step_tokens};
use crate::generation::{EventSink, GenerationRequest};
use crate::large_pages::LargePages;
use crate::model::Model;
use crate::scheduler::{Plan, Running, SchedulerLimits, Waiting, plan};
use crate::scratch::Scratch;
use crate::sequence::Sequence;
use crate::speculation::{MOST_GUESSED_A_STEP, Payoff};

/// Steps after which work in the background is served like a user's.
const PATIENCE_STEPS: u64 = 2_000;
/// Keys whose served tokens are remembered though nothing of theirs is here.
const MOST_IDLE_KEYS: usize = 4_096;

/// Settings of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Most tokens in one step.
    pub max_step_tokens: usize,
    /// Longest prompt and answer together, in tokens; the model's own context where it is `None`.
    pub context_tokens: Option<usize>,
    /// Bytes of key and value cache, over all sequences. `None`: what `max_sequences` of the full context need, but
    /// at most 1 GiB.
    pub cache_bytes: Option<u64>,
    /// Most requests that wait; one more is refused.
    pub max_waiting: usize,
    /// Whether tokens are guessed ahead where that pays.
    pub speculation: Speculation,
    /// How keys and values are stored; a GPU has 16-bit floats only.
    pub cache_format: CacheFormat,
    /// Where the model is to be loaded; an engine computes where it was.
    pub device: Device,
    /// Whether an answer from a GPU is the same in any company, whatever that costs; a CPU's always is. An engine computes as its model was
    /// loaded.
    pub batch_invariant: bool,
}

/// Whether tokens are guessed ahead. Answers are the same either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// Where measurements say that it pays.
    #[default]
    Measured,
    /// Always; for tests.
    Always,
    /// Never.
    Off,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_sequences: 32,
            max_step_tokens: 256,
            context_tokens: None,
            cache_bytes: None,
            max_waiting: 1024,
            speculation: Speculation::Measured,
            cache_format: CacheFormat::F16,
            device: Device::Cpu,
            batch_invariant: false,
        }
    }
}

/// Readings of an engine at a moment; counts are since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineReadings {
    /// Sequences in the last step.
    pub batch_size: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Bytes of cache that running sequences hold.
    pub cache_used_bytes: u64,
    /// Bytes of cache that only remembered prefixes hold.
    pub cache_remembered_bytes: u64,
    /// Bytes of cache in all.
    pub cache_total_bytes: u64,
    /// Prompt tokens of requests that started.
    pub prompt_tokens: u64,
    /// Of those: taken from remembered prefixes.
    pub remembered_tokens: u64,
    /// Times that a sequence gave its blocks back to compute them anew.
    pub put_off: u64,
    /// Tokens that were guessed.
    pub guessed_tokens: u64,
    /// Of those: kept.
    pub kept_tokens: u64,
    /// Tokens chosen under a constraint.
    pub constrained_tokens: u64,
    /// Time that constraints took, in microseconds, on whatever thread.
    pub constraint_us: u64,
}

#[derive(Default)]
struct Gauges {
    batch_size: AtomicUsize,
    waiting: AtomicUsize,
    cache_used_bytes: AtomicU64,
    cache_remembered_bytes: AtomicU64,
    prompt_tokens: AtomicU64,
    remembered_tokens: AtomicU64,
    put_off: AtomicU64,
    guessed_tokens: AtomicU64,
    kept_tokens: AtomicU64,
    constrained_tokens: AtomicU64,
    constraint_us: AtomicU64,
}

/// A model that runs. Dropping it ends what still runs as failed.
pub struct Engine {
    model: Arc<Model>,
    options: EngineOptions,
    gauges: Arc<Gauges>,
    submissions: Option<SyncSender<Submission>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Submission {
    request: GenerationRequest,
    sink: EventSink,
}

impl Engine {
    /// Starts the compute thread.
    ///
    /// # Errors
    /// When the system has no thread left, or memory does not suffice for the cache.
    pub fn start(name: &str, model: Arc<Model>, options: EngineOptions) -> Result<Self, EngineError> {
        let options = EngineOptions { device: model.device, ..options };
        let (submissions, receiver) = sync_channel(options.max_waiting.max(1));
        let gauges = Arc::new(Gauges::default());
        let description = model.decoder.description();
        let windows = description.windows();
        let limits = SchedulerLimits {
            max_sequences: options.max_sequences.max(1),
            max_step_tokens: max_step_tokens(&options),
            patience_steps: PATIENCE_STEPS,
            layers: windows.len(),
        };
        let blocks = cache_blocks(description, &options);
        // Before anything else is as large as the settings say.
        let scratch = Scratch::with_room(description, limits.max_step_tokens, max_logit_rows(&options))?;
        let executor = Executor::new(&model, options.cache_format, blocks, scratch)?;
        let worker = Worker {
            limits,
            options,
            gauges: Arc::clone(&gauges),
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks: BlockPool::new(blocks, windows),
            executor,
            large_pages: LargePages::new(&model),
            payoff: Payoff::default(),
            served: HashMap::new(),
            steps: 0,
            arrivals: 0,
            model: Arc::clone(&model),
        };
        let thread = std::thread::Builder::new()
            .name(format!("engine {name}"))
            .spawn(move || worker.run(&receiver))?;
        Ok(Self { model, options, gauges, submissions: Some(submissions), thread: Mutex::new(Some(thread)) })
    }

    /// The model that it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Longest prompt and answer together, in tokens: what the context and the cache both hold.
    pub fn max_sequence_tokens(&self) -> usize {
        context_tokens(self.model.decoder.description(), &self.options)
    }

    /// Queues a request; its events go to `sink`, on the engine's thread.
    ///
    /// # Errors
    /// When the prompt and one token do not fit, the queue is full, or the engine has stopped.
    pub fn submit(&self, mut request: GenerationRequest, sink: EventSink) -> Result<(), EngineError> {
        let context_tokens = self.max_sequence_tokens();
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt_tokens >= context_tokens {
            return Err(EngineError::PromptTooLong { prompt_tokens, context_tokens });
        }
        request.max_tokens = request.max_tokens.clamp(1, context_tokens - prompt_tokens);
        let submissions = self.submissions.as_ref().ok_or(EngineError::Stopped)?;
        submissions.try_send(Submission { request, sink }).map_err(|error| match error {
            TrySendError::Full(_) => EngineError::QueueFull,
            TrySendError::Disconnected(_) => EngineError::Stopped,
        })
    }

    fn cache_total_bytes(&self) -> u64 {
        let description = self.model.decoder.description();
        cache_blocks(description, &self.options) as u64 * block_bytes(description, &self.options)
    }

    /// How it stands.
    pub fn readings(&self) -> EngineReadings {
        EngineReadings {
            batch_size: self.gauges.batch_size.load(Ordering::Relaxed),
            waiting: self.gauges.waiting.load(Ordering::Relaxed),
            cache_used_bytes: self.gauges.cache_used_bytes.load(Ordering::Relaxed),
            cache_remembered_bytes: self.gauges.cache_remembered_bytes.load(Ordering::Relaxed),
            cache_total_bytes: self.cache_total_bytes(),
            prompt_tokens: self.gauges.prompt_tokens.load(Ordering::Relaxed),
            remembered_tokens: self.gauges.remembered_tokens.load(Ordering::Relaxed),
            put_off: self.gauges.put_off.load(Ordering::Relaxed),
            guessed_tokens: self.gauges.guessed_tokens.load(Ordering::Relaxed),
            kept_tokens: self.gauges.kept_tokens.load(Ordering::Relaxed),
            constrained_tokens: self.gauges.constrained_tokens.load(Ordering::Relaxed),
            constraint_us: self.gauges.constraint_us.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.submissions = None;
        let thread = self.thread.get_mut().map(Option::take);
        if let Ok(Some(thread)) = thread
            && thread.join().is_err()
        {
            tracing::error!("an engine's thread panicked outside a step");
        }
    }
}

struct Worker {
    model: Arc<Model>,
    limits: SchedulerLimits,
    options: EngineOptions,
    gauges: Arc<Gauges>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    blocks: BlockPool,
    executor: Executor,
    large_pages: LargePages,
    payoff: Payoff,
    /// Tokens computed for each key.
    served: HashMap<u64, u64>,
    steps: u64,
    arrivals: u64,
}

impl Worker {
    fn run(mut self, submissions: &Receiver<Submission>) {
        if let Err(error) = self.model.pool.bind_caller() {
            tracing::warn!(%error, "the engine's thread stays where the system puts it");
        }
        while self.receive(submissions) {
            let planned = self.plan();
            let computed = catch_unwind(AssertUnwindSafe(|| self.step(planned)));
            if computed.is_err() {
                tracing::error!("a step panicked; its requests are ended");
                let reason = "the engine met a bug in this batch; the agent's log has the panic";
                self.running.iter_mut().for_each(|sequence| sequence.fail(reason));
            }
            self.settle();
            self.publish();
        }
        let stopped = EngineError::Stopped.to_string();
        self.running.iter_mut().chain(&mut self.waiting).for_each(|sequence| sequence.fail(&stopped));
    }

    /// Takes what has come; sleeps while there is nothing to do. False when the engine is dropped.
    fn receive(&mut self, submissions: &Receiver<Submission>) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.idle(submissions) {
                Ok(submission) => self.queue(submission),
                Err(RecvError) => return false,
            }
        }
        // What is beyond the limit stays in the channel, which is bounded too and refuses when full.
        while self.waiting.len() < self.options.max_waiting.max(1) {
            match submissions.try_recv() {
                Ok(submission) => self.queue(submission),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// The next that comes.
    fn idle(&mut self, submissions: &Receiver<Submission>) -> Result<Submission, RecvError> {
        loop {
            match submissions.try_recv() {
                Ok(submission) => return Ok(submission),
                Err(TryRecvError::Empty) if self.large_pages.gather() => {}
                Err(TryRecvError::Empty) => return submissions.recv(),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
            }
        }
    }

    fn queue(&mut self, Submission { request, sink }: Submission) {
        let key = request.fairness_key;
        let here = |sequences: &mut dyn Iterator<Item = &Sequence>| {
            sequences.filter_map(|sequence| self.served.get(&sequence.key()).copied()).min()
        };
        // Who comes back after a pause is not owed what was served meanwhile.
        let least = here(&mut self.running.iter().chain(&self.waiting)).unwrap_or(0);
        let served = self.served.entry(key).or_default();
        *served = (*served).max(least);
        self.arrivals += 1;
        let bfloat16_tokens = self.model.bfloat16_tokens(request.prompt.len());
        self.waiting.push_back(Sequence::new(request, sink, bfloat16_tokens, self.arrivals, self.steps));
    }

    fn plan(&mut self) -> Plan {
        self.steps += 1;
        self.guess();
        let running: Vec<Running> = self.running.iter().map(Sequence::as_running).collect();
        let windows = self.model.decoder.description().windows();
        // Without a place nobody starts, and nobody's prompt need be looked up.
        let places = self.limits.max_sequences.saturating_sub(self.running.len());
        let candidates = if places == 0 { 0 } else { self.waiting.len() };
        let waiting: Vec<Waiting> = self
            .waiting
            .iter()
            .take(candidates)
            .map(|sequence| {
                let remembered_tokens = self.blocks.remembered_tokens(sequence.beginning());
                let tokens = sequence.tokens().len() + 1;
                Waiting {
                    priority: sequence.priority(),
                    arrival: sequence.arrival(),
                    waited_steps: self.steps - sequence.came_at_step(),
                    served_tokens: self.served.get(&sequence.key()).copied().unwrap_or(0),
                    prompt_tokens: sequence.tokens().len() - remembered_tokens,
                    remembered_tokens,
                    prompt_blocks: BlockPool::most_for(&windows, tokens, self.limits.max_step_tokens),
                }
            })
            .collect();
        plan(&running, &waiting, self.blocks.available(), self.limits)
    }

    /// Guesses ahead for sequences that generate, where that pays.
    fn guess(&mut self) {
        let mut left = MOST_GUESSED_A_STEP;
        for sequence in &mut self.running {
            sequence.guess(left);
            left -= sequence.guessed();
        }
        let generating = self.running.iter().filter(|sequence| sequence.is_generating()).count();
        let guessed: usize = self.running.iter().map(Sequence::guessed).sum();
        let worth = match self.options.speculation {
            Speculation::Off => false,
            Speculation::Always => true,
            // Beside prompts the step is busy with arithmetic already.
            Speculation::Measured => {
                generating == self.running.len() && self.payoff.is_worth(generating, guessed)
            }
        };
        if !worth {
            self.running.iter_mut().for_each(Sequence::forget_guess);
        }
    }

    fn step(&mut self, Plan { put_off, start, mut tokens }: Plan) {
        for index in put_off.into_iter().rev() {
            let mut sequence = self.running.remove(index);
            tokens.remove(index);
            sequence.put_off(&mut self.blocks);
            self.gauges.put_off.fetch_add(1, Ordering::Relaxed);
            self.waiting.push_front(sequence);
        }
        let mut line: Vec<Option<Sequence>> = self.waiting.drain(..).map(Some).collect();
        for index in start {
            let Some(mut sequence) = line.get_mut(index).and_then(Option::take) else { continue };
            let remembered = sequence.start(&mut self.blocks);
            self.gauges.prompt_tokens.fetch_add(sequence.tokens().len() as u64, Ordering::Relaxed);
            self.gauges.remembered_tokens.fetch_add(remembered as u64, Ordering::Relaxed);
            self.running.push(sequence);
        }
        self.waiting.extend(line.into_iter().flatten());
        self.compute(&tokens);
    }

    fn compute(&mut self, tokens: &[usize]) {
        let mut active: Vec<(&mut Sequence, Vec<u32>, usize)> = Vec::new();
        for (sequence, count) in self.running.iter_mut().zip(tokens) {
            if *count == 0 || sequence.is_ended() {
                continue;
            }
            let fed = sequence.next_tokens(*count);
            // The plan has seen to it that there is room.
            if self.blocks.grow(sequence.blocks_mut(), fed.len()).is_ok() {
                let logit_rows = sequence.logit_rows(fed.len());
                active.push((sequence, fed, logit_rows));
            }
        }
        self.gauges.batch_size.store(active.len(), Ordering::Relaxed);
        if active.is_empty() {
            return;
        }
        let only_generates = active.iter().all(|(sequence, ..)| sequence.is_generating());
        let rows: usize = active.iter().map(|(_, fed, _)| fed.len()).sum();
        let began = Instant::now();
        let chunks: Vec<Chunk<'_>> = active
            .iter()
            .map(|(sequence, fed, logit_rows)| Chunk {
                tokens: fed,
                blocks: sequence.blocks(),
                logit_rows: *logit_rows,
                adapter: sequence.adapter(),
                bfloat16_tokens: sequence.bfloat16_tokens_left(),
            })
            .collect();
        let computed = self.executor.forward(&chunks);
        drop(chunks);
        let mut logits = match computed {
            Ok(logits) => logits,
            Err(error) => {
                tracing::error!(%error, "a step failed; its requests are ended");
                active.into_iter().for_each(|(sequence, ..)| sequence.fail(&error.to_string()));
                return;
            }
        };
        let vocabulary = self.model.decoder.description().vocabulary;
        let mut sampling = Vec::with_capacity(active.len());
        for (sequence, fed, logit_rows) in active {
            let (own, rest) = std::mem::take(&mut logits).split_at_mut(logit_rows * vocabulary);
            logits = rest;
            sampling.push((sequence, fed, own));
        }
        self.model.pool.run_each(&mut sampling, |(sequence, _, logits)| sequence.sample(logits, vocabulary));
        let (step, threads) = (began.elapsed(), self.model.pool.threads());
        if only_generates {
            self.payoff.took(rows, step.as_secs_f64() * 1e6);
        }
        for (sequence, fed, _) in sampling {
            sequence.took(step, threads, fed.len(), rows);
            if let Some((tokens, took)) = sequence.constrained() {
                self.gauges.constrained_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.gauges.constraint_us.fetch_add(us, Ordering::Relaxed);
            }
            let guessed = sequence.guessed();
            let stays = sequence.kept_tokens(fed.len());
            self.blocks.advance(sequence.blocks_mut(), &fed[..stays]);
            *self.served.entry(sequence.key()).or_default() += stays as u64;
            if guessed > 0 {
                self.payoff.kept(guessed, stays - 1);
                self.gauges.guessed_tokens.fetch_add(guessed as u64, Ordering::Relaxed);
                self.gauges.kept_tokens.fetch_add(stays as u64 - 1, Ordering::Relaxed);
            }
            sequence.deliver(&self.model);
        }
    }

    /// Lets go of what has ended.
    fn settle(&mut self) {
        let blocks = &mut self.blocks;
        self.running.retain_mut(|sequence| {
            if sequence.is_ended() {
                blocks.release(sequence.blocks_mut());
            }
            !sequence.is_ended()
        });
        self.waiting.retain(|sequence| !sequence.is_ended());
        if self.served.len() > MOST_IDLE_KEYS {
            let here: Vec<u64> = self.running.iter().chain(&self.waiting).map(Sequence::key).collect();
            self.served.retain(|key, _| here.contains(key));
        }
    }

    fn publish(&self) {
        let block_bytes = block_bytes(self.model.decoder.description(), &self.options);
        let used = (self.blocks.total() - self.blocks.available()) as u64 * block_bytes;
        let remembered = self.blocks.reclaimable() as u64 * block_bytes;
        self.gauges.cache_used_bytes.store(used, Ordering::Relaxed);
        self.gauges.cache_remembered_bytes.store(remembered, Ordering::Relaxed);
        self.gauges.waiting.store(self.waiting.len(), Ordering::Relaxed);
        if self.running.is_empty() {
            self.gauges.batch_size.store(0, Ordering::Relaxed);
        }
    }
}
