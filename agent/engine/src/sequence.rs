//! One answer on its way: its tokens, its blocks, and who listens.

use std::sync::Arc;
use std::time::Duration;

use crate::EngineError;
use crate::adapter::Adapter;
use crate::blocks::{Beginning, BlockPool, PrefixRoot, SequenceBlocks};
use crate::constraint::Constraint;
use crate::cpu_time::CpuTime;
use crate::generation::{
    EventSink, FinishReason, GeneratedToken, GenerationEvent, GenerationRequest, Listener, NamedLogprobs,
    TokenLogprob,
};
use crate::model::Model;
use crate::sampling::{Sampled, Sampler};
use crate::scheduler::{Priority, Running};
use crate::speculation::guess;
use crate::text_stream::TextStream;

const NOT_A_NUMBER: &str =
    "the model's logits are not numbers; its weights are damaged, or its file was made wrong";

/// A request that waits or runs.
pub(crate) struct Sequence {
    /// The prompt and the answer so far.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of the prompt are multiplied in bfloat16.
    bfloat16_tokens: usize,
    max_tokens: usize,
    blocks: SequenceBlocks,
    /// What may follow the last token.
    guess: Vec<u32>,
    /// What the last step chose.
    sampled: Vec<Sampled>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    /// Why its constraint could not go on.
    constraint_failed: Option<String>,
    named_logprobs: bool,
    adapter: Option<Arc<Adapter>>,
    cpu_time: Option<Arc<CpuTime>>,
    ignore_end: bool,
    text: TextStream,
    sink: EventSink,
    priority: Priority,
    key: u64,
    arrival: u64,
    came_at_step: u64,
    started: bool,
    ended: bool,
}

impl Sequence {
    pub(crate) fn new(
        request: GenerationRequest,
        sink: EventSink,
        bfloat16_tokens: usize,
        arrival: u64,
        came_at_step: u64,
    ) -> Self {
        Self {
            bfloat16_tokens,
            prompt_tokens: request.prompt.len(),
            max_tokens: request.max_tokens,
            blocks: SequenceBlocks::default(),
            guess: Vec::new(),
            sampled: Vec::new(),
            named_logprobs: request.sampling.top_logprobs.is_some(),
            sampler: Sampler::new(request.sampling, &request.prompt),
            tokens: request.prompt,
            constraint: request.constraint,
            constraint_failed: None,
            adapter: request.adapter,
            cpu_time: request.cpu_time,
            ignore_end: request.ignore_end,
            text: TextStream::new(request.stops),
            sink,
            priority: request.priority,
            key: request.fairness_key,
            arrival,
            came_at_step,
            started: false,
            ended: false,
        }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_deref()
    }

    /// Counts its part of a step: `rows` of all `of`, over as many threads.
    pub(crate) fn took(&self, step: Duration, threads: usize, rows: usize, of: usize) {
        if let Some(cpu_time) = &self.cpu_time {
            cpu_time.add(step.mul_f64(threads as f64 * rows as f64 / of.max(1) as f64));
        }
    }

    /// What its keys and values depend on.
    pub(crate) fn beginning(&self) -> Beginning<'_> {
        Beginning {
            root: self.adapter().map_or(PrefixRoot::default(), Adapter::identity),
            tokens: &self.tokens,
            bfloat16_tokens: self.bfloat16_tokens,
        }
    }

    /// How many of the next tokens to compute are multiplied in bfloat16.
    pub(crate) fn bfloat16_tokens_left(&self) -> usize {
        self.bfloat16_tokens.saturating_sub(self.blocks.len())
    }

    pub(crate) fn priority(&self) -> Priority {
        self.priority
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn arrival(&self) -> u64 {
        self.arrival
    }

    pub(crate) fn came_at_step(&self) -> u64 {
        self.came_at_step
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn blocks(&self) -> &SequenceBlocks {
        &self.blocks
    }

    pub(crate) fn blocks_mut(&mut self) -> &mut SequenceBlocks {
        &mut self.blocks
    }

    /// Whether all that is left to compute is the token sampled last.
    pub(crate) fn is_generating(&self) -> bool {
        self.tokens.len() > self.prompt_tokens && self.blocks.len() + 1 == self.tokens.len()
    }

    pub(crate) fn as_running(&self) -> Running {
        Running {
            priority: self.priority,
            arrival: self.arrival,
            seen_tokens: self.blocks.len(),
            pending_tokens: self.tokens.len() - self.blocks.len() + self.guess.len(),
            generating: self.is_generating(),
            held_blocks: self.blocks.held(),
        }
    }

    /// Takes up what is remembered of its tokens; returns how many.
    pub(crate) fn start(&mut self, blocks: &mut BlockPool) -> usize {
        self.blocks = blocks.begin(self.beginning());
        if !self.started {
            self.started = true;
            self.tell(GenerationEvent::Started);
        }
        self.blocks.len()
    }

    /// Gives its blocks back, to compute them anew.
    pub(crate) fn put_off(&mut self, blocks: &mut BlockPool) {
        self.guess.clear();
        blocks.release(&mut self.blocks);
    }

    /// Guesses up to `most` tokens that follow. Never beyond the end of the answer, whose room is what was asked for.
    pub(crate) fn guess(&mut self, most: usize) {
        self.guess.clear();
        if self.is_generating() {
            let left = self.max_tokens - (self.tokens.len() - self.prompt_tokens);
            let most = most.min(left.saturating_sub(1));
            let forced = self.constraint.as_mut().map_or_else(Vec::new, |constraint| constraint.forced(most));
            // What must come is guessed without fail; what merely may come is as good as any other guess.
            if forced.is_empty() {
                self.guess.extend_from_slice(guess(&self.tokens, most));
            } else {
                self.guess = forced;
            }
        }
    }

    pub(crate) fn forget_guess(&mut self) {
        self.guess.clear();
    }

    pub(crate) fn guessed(&self) -> usize {
        self.guess.len()
    }

    /// The next `count` tokens to compute; guesses beyond them are forgotten.
    pub(crate) fn next_tokens(&mut self, count: usize) -> Vec<u32> {
        let own = self.tokens.len() - self.blocks.len();
        self.guess.truncate(count.saturating_sub(own));
        self.tokens[self.blocks.len()..].iter().chain(&self.guess).take(count).copied().collect()
    }

    /// Rows whose logits are wanted when `count` tokens are computed: those that the next tokens are chosen from.
    pub(crate) fn logit_rows(&self, count: usize) -> usize {
        if self.blocks.len() + count < self.tokens.len() { 0 } else { 1 + self.guess.len() }
    }

    /// Chooses from the rows of `logits` in order, until a guess proves wrong.
    pub(crate) fn sample(&mut self, logits: &mut [f32], vocabulary: usize) {
        self.sampled.clear();
        for (index, row) in logits.chunks_exact_mut(vocabulary).enumerate() {
            let constraint = &mut self.constraint;
            let sampled = self.sampler.sample_among(row, |logits| match constraint {
                Some(constraint) => constraint.rule_out(logits).map(|()| true),
                None => Ok(false),
            });
            let taken = sampled.and_then(|sampled| match constraint {
                Some(constraint) => constraint.take(sampled.token).map(|()| sampled),
                None => Ok(sampled),
            });
            let sampled = match taken {
                Ok(sampled) => sampled,
                Err(reason) => {
                    self.constraint_failed = Some(reason);
                    break;
                }
            };
            let right = self.guess.get(index) == Some(&sampled.token);
            self.sampled.push(sampled);
            if !right {
                break;
            }
        }
    }

    /// How many of the `fed` tokens are part of the sequence.
    pub(crate) fn kept_tokens(&self, fed: usize) -> usize {
        if self.guess.is_empty() { fed } else { self.sampled.len().max(1) }
    }

    /// Tokens that the last step chose under a constraint, and the time that it took since the last call; `None`
    /// without one.
    pub(crate) fn constrained(&mut self) -> Option<(usize, Duration)> {
        let chosen = self.sampled.len();
        self.constraint.as_mut().map(|constraint| (chosen, constraint.took()))
    }

    /// Hands out what was chosen.
    pub(crate) fn deliver(&mut self, model: &Model) {
        self.guess.clear();
        for sampled in std::mem::take(&mut self.sampled) {
            if self.ended {
                return;
            }
            if let Err(error) = self.take(model, sampled) {
                self.fail(&error.to_string());
            }
        }
        if !self.ended && self.is_complete() {
            self.finish(model, FinishReason::Stop);
        }
        if let Some(reason) = self.constraint_failed.take() {
            self.fail(&format!("the answer's format could not be held: {reason}"));
        }
    }

    /// Whether nothing may follow what was said.
    fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// Ends it badly.
    pub(crate) fn fail(&mut self, reason: &str) {
        if !self.ended {
            self.ended = true;
            (self.sink)(GenerationEvent::Failed(reason.to_owned()));
        }
    }

    fn tell(&mut self, event: GenerationEvent) {
        if (self.sink)(event) == Listener::Gone {
            self.ended = true;
        }
    }

    fn take(&mut self, model: &Model, sampled: Sampled) -> Result<(), EngineError> {
        if !sampled.logprob.is_finite() {
            self.fail(NOT_A_NUMBER);
            return Ok(());
        }
        if !self.ignore_end && model.tokenizer.is_end(sampled.token) {
            self.finish(model, FinishReason::Stop);
            return Ok(());
        }
        self.tokens.push(sampled.token);
        let step = self.text.push(&model.tokenizer, sampled.token)?;
        let named = self.named_logprobs.then(|| named_logprobs(model, &sampled));
        self.tell(GenerationEvent::Token(GeneratedToken {
            id: sampled.token,
            text: step.text,
            logprob: sampled.logprob,
            entropy: sampled.entropy,
            named,
        }));
        if self.ended {
            return Ok(());
        }
        if step.stopped {
            self.ended = true;
            (self.sink)(GenerationEvent::Finished { reason: FinishReason::Stop, text: String::new() });
        } else if self.tokens.len() - self.prompt_tokens == self.max_tokens && !self.is_complete() {
            self.finish(model, FinishReason::Length);
        }
        Ok(())
    }

    fn finish(&mut self, model: &Model, reason: FinishReason) {
        self.ended = true;
        let text = self.text.finish(&model.tokenizer);
        (self.sink)(GenerationEvent::Finished { reason, text });
    }
}

fn named_logprobs(model: &Model, sampled: &Sampled) -> NamedLogprobs {
    let named = |(id, logprob): &(u32, f32)| TokenLogprob {
        token: model.tokenizer.token_text(*id),
        logprob: *logprob,
    };
    NamedLogprobs {
        token: model.tokenizer.token_text(sampled.token),
        top: sampled.top.iter().map(named).collect(),
    }
}
