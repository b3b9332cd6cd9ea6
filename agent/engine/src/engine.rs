//! The compute thread: takes requests, plans steps, runs them, hands out tokens.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::EngineError;
use crate::cache::SequenceCache;
use crate::decoder::{Chunk, LogitRows};
use crate::generation::{
    EventSink, FinishReason, GeneratedToken, GenerationEvent, GenerationRequest, Listener, NamedLogprobs,
    TokenLogprob,
};
use crate::model::Model;
use crate::sampling::{Sampled, Sampler};
use crate::scheduler::{Plan, Running, SchedulerLimits, Waiting, plan};
use crate::text_stream::TextStream;

/// Settings of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Most tokens in one step.
    pub max_step_tokens: usize,
    /// Bytes of key and value cache, over all sequences.
    pub cache_bytes: u64,
    /// Most requests that wait; one more is refused.
    pub max_waiting: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_sequences: 32, max_step_tokens: 256, cache_bytes: 1 << 30, max_waiting: 1024 }
    }
}

/// Readings of an engine at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineReadings {
    /// Sequences in the last step.
    pub batch_size: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Bytes of cache that hold keys and values.
    pub cache_used_bytes: u64,
    /// Bytes of cache in all.
    pub cache_total_bytes: u64,
}

#[derive(Default)]
struct Gauges {
    batch_size: AtomicUsize,
    waiting: AtomicUsize,
    cache_used_bytes: AtomicU64,
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
    /// When the system has no thread left.
    pub fn start(name: &str, model: Arc<Model>, options: EngineOptions) -> std::io::Result<Self> {
        let (submissions, receiver) = sync_channel(options.max_waiting.max(1));
        let gauges = Arc::new(Gauges::default());
        let limits = SchedulerLimits {
            max_sequences: options.max_sequences.max(1),
            max_step_tokens: options.max_step_tokens.max(options.max_sequences).max(1),
            cache_tokens: cache_tokens(&model, &options),
        };
        let worker = Worker {
            model: Arc::clone(&model),
            limits,
            gauges: Arc::clone(&gauges),
            waiting: VecDeque::new(),
            max_waiting: options.max_waiting.max(1),
            running: Vec::new(),
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
        self.model.decoder.description().context.min(cache_tokens(&self.model, &self.options))
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

    /// How it stands.
    pub fn readings(&self) -> EngineReadings {
        EngineReadings {
            batch_size: self.gauges.batch_size.load(Ordering::Relaxed),
            waiting: self.gauges.waiting.load(Ordering::Relaxed),
            cache_used_bytes: self.gauges.cache_used_bytes.load(Ordering::Relaxed),
            cache_total_bytes: self.options.cache_bytes,
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

fn cache_tokens(model: &Model, options: &EngineOptions) -> usize {
    let per_token = model.decoder.description().kv_bytes_per_token().max(1);
    usize::try_from(options.cache_bytes / per_token).unwrap_or(usize::MAX)
}

struct Sequence {
    cache: SequenceCache,
    /// Tokens not yet run.
    pending: Vec<u32>,
    answered: usize,
    max_tokens: usize,
    reserved_tokens: usize,
    named_logprobs: bool,
    sampler: Sampler,
    text: TextStream,
    sink: EventSink,
    ended: bool,
}

struct Worker {
    model: Arc<Model>,
    limits: SchedulerLimits,
    gauges: Arc<Gauges>,
    waiting: VecDeque<Submission>,
    max_waiting: usize,
    running: Vec<Sequence>,
}

impl Worker {
    fn run(mut self, submissions: &Receiver<Submission>) {
        while self.receive(submissions) {
            if let Err(reason) = self.step() {
                tracing::error!(reason, "an engine's step failed; its requests are ended");
                for mut sequence in self.running.drain(..) {
                    (sequence.sink)(GenerationEvent::Failed(reason.clone()));
                }
            }
            self.publish();
        }
        for mut sequence in self.running.drain(..) {
            (sequence.sink)(GenerationEvent::Failed(EngineError::Stopped.to_string()));
        }
        for mut submission in self.waiting.drain(..) {
            (submission.sink)(GenerationEvent::Failed(EngineError::Stopped.to_string()));
        }
    }

    /// Takes what has come; sleeps while there is nothing to do. False when the engine is dropped.
    fn receive(&mut self, submissions: &Receiver<Submission>) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match submissions.recv() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(_) => return false,
            }
        }
        // What is beyond the limit stays in the channel, which is bounded too and refuses when full.
        while self.waiting.len() < self.max_waiting {
            match submissions.try_recv() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn step(&mut self) -> Result<(), String> {
        let running: Vec<Running> = self
            .running
            .iter()
            .map(|sequence| Running {
                pending_tokens: sequence.pending.len(),
                reserved_tokens: sequence.reserved_tokens,
            })
            .collect();
        let waiting: Vec<Waiting> = self
            .waiting
            .iter()
            .map(|Submission { request, .. }| Waiting {
                priority: request.priority,
                prompt_tokens: request.prompt.len(),
                reserved_tokens: request.prompt.len() + request.max_tokens,
            })
            .collect();
        let Plan { start, tokens } = plan(&running, &waiting, self.limits);
        self.start(start)?;
        let computed = catch_unwind(AssertUnwindSafe(|| self.compute(&tokens)));
        match computed {
            Ok(result) => result.map_err(|error| error.to_string())?,
            Err(_) => return Err("the engine met a bug in this batch; the agent's log has the panic".into()),
        }
        self.running.retain(|sequence| !sequence.ended);
        Ok(())
    }

    fn start(&mut self, indices: Vec<usize>) -> Result<(), String> {
        let mut left: Vec<Option<Submission>> = self.waiting.drain(..).map(Some).collect();
        for index in indices {
            let Some(Submission { request, mut sink }) = left.get_mut(index).and_then(Option::take) else {
                continue;
            };
            let reserved_tokens = request.prompt.len() + request.max_tokens;
            let cache = match SequenceCache::new(self.model.decoder.description(), reserved_tokens) {
                Ok(cache) => cache,
                Err(error) => {
                    sink(GenerationEvent::Failed(error.to_string()));
                    continue;
                }
            };
            let ended = sink(GenerationEvent::Started) == Listener::Gone;
            self.running.push(Sequence {
                cache,
                answered: 0,
                max_tokens: request.max_tokens,
                reserved_tokens,
                named_logprobs: request.sampling.top_logprobs.is_some(),
                sampler: Sampler::new(request.sampling, &request.prompt),
                pending: request.prompt,
                text: TextStream::new(request.stops),
                sink,
                ended,
            });
        }
        self.waiting.extend(left.into_iter().flatten());
        Ok(())
    }

    fn compute(&mut self, tokens: &[usize]) -> Result<(), EngineError> {
        let mut active: Vec<(&mut Sequence, usize)> = self
            .running
            .iter_mut()
            .zip(tokens.iter().copied())
            .filter(|(sequence, count)| *count > 0 && !sequence.ended)
            .collect();
        self.gauges.batch_size.store(active.len(), Ordering::Relaxed);
        if active.is_empty() {
            return Ok(());
        }
        let mut chunks: Vec<Chunk<'_>> = active
            .iter_mut()
            .map(|(sequence, count)| Chunk {
                tokens: &sequence.pending[..*count],
                cache: &mut sequence.cache,
            })
            .collect();
        let logits = self.model.decoder.forward(&mut chunks, LogitRows::Last)?.to_vec2::<f32>()?;
        drop(chunks);
        for ((sequence, count), mut row) in active.into_iter().zip(logits) {
            sequence.pending.drain(..count);
            if sequence.pending.is_empty() {
                let sampled = sequence.sampler.sample(&mut row);
                sequence.take(&self.model, sampled)?;
            }
        }
        Ok(())
    }

    fn publish(&self) {
        let seen: usize = self.running.iter().map(|sequence| sequence.cache.len()).sum();
        let used = seen as u64 * self.model.decoder.description().kv_bytes_per_token();
        self.gauges.cache_used_bytes.store(used, Ordering::Relaxed);
        self.gauges.waiting.store(self.waiting.len(), Ordering::Relaxed);
        if self.running.is_empty() {
            self.gauges.batch_size.store(0, Ordering::Relaxed);
        }
    }
}

impl Sequence {
    fn take(&mut self, model: &Model, sampled: Sampled) -> Result<(), EngineError> {
        if model.tokenizer.is_end(sampled.token) {
            self.finish(model, FinishReason::Stop);
            return Ok(());
        }
        self.answered += 1;
        let step = self.text.push(&model.tokenizer, sampled.token)?;
        let named = self.named_logprobs.then(|| NamedLogprobs {
            token: model.tokenizer.token_text(sampled.token),
            top: sampled
                .top
                .iter()
                .map(|(id, logprob)| TokenLogprob {
                    token: model.tokenizer.token_text(*id),
                    logprob: *logprob,
                })
                .collect(),
        });
        let listener = (self.sink)(GenerationEvent::Token(GeneratedToken {
            id: sampled.token,
            text: step.text,
            logprob: sampled.logprob,
            entropy: sampled.entropy,
            named,
        }));
        if listener == Listener::Gone {
            self.ended = true;
        } else if step.stopped {
            self.ended = true;
            (self.sink)(GenerationEvent::Finished { reason: FinishReason::Stop, text: String::new() });
        } else if self.answered == self.max_tokens {
            self.finish(model, FinishReason::Length);
        } else {
            self.pending.push(sampled.token);
        }
        Ok(())
    }

    fn finish(&mut self, model: &Model, reason: FinishReason) {
        self.ended = true;
        let text = self.text.finish(&model.tokenizer);
        (self.sink)(GenerationEvent::Finished { reason, text });
    }
}
