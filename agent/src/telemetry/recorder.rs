//! What one revision's requests measured since the last interval. Every worker records into a shard of its own;
//! shards hold atomics only, so that draining them stops nobody.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1;

use super::atomic_histogram::AtomicHistogram;

/// Shards; workers beyond this share.
const SHARDS: usize = 8;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was sent.
    Ok,
    /// The request itself was wrong.
    ClientError,
    /// We failed it.
    ServerError,
    /// The client went away.
    Cancelled,
    /// It took longer than it may.
    Deadline,
}

/// What a finished answer was like, for the quality signals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerQuality {
    /// Sum of the tokens' logprobs.
    pub logprob_sum: f64,
    /// Sum of the entropies, in nats.
    pub entropy_sum: f64,
    /// Tokens that the sums run over.
    pub scored_tokens: u64,
    /// Nothing but white space.
    pub empty: bool,
    /// Ended by its length.
    pub truncated: bool,
    /// Says the same over and over.
    pub repetitive: bool,
    /// Begins as refusals do in English.
    pub refused: bool,
    /// Whether JSON was asked for, and if so, whether it came.
    pub json: Option<bool>,
}

/// Signals of one revision.
#[derive(Default)]
pub struct Recorder {
    shards: [Shard; SHARDS],
}

#[derive(Default)]
#[repr(align(128))]
struct Shard {
    queue_us: AtomicHistogram,
    ttft_us: AtomicHistogram,
    itl_us: AtomicHistogram,
    tpot_us: AtomicHistogram,
    e2e_us: AtomicHistogram,
    outcomes: [AtomicU64; 5],
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    responses: AtomicU64,
    logprob_micros: AtomicI64,
    entropy_micros: AtomicI64,
    scored_tokens: AtomicU64,
    empty: AtomicU64,
    truncated: AtomicU64,
    repetitive: AtomicU64,
    refused: AtomicU64,
    json_asked: AtomicU64,
    json_valid: AtomicU64,
}

/// One drained interval.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Queue, TTFT, ITL, TPOT and E2E, encoded.
    pub queue_us: v1::Histogram,
    /// Time to first token.
    pub ttft_us: v1::Histogram,
    /// Between two tokens.
    pub itl_us: v1::Histogram,
    /// Mean time per token behind the first, one value a request.
    pub tpot_us: v1::Histogram,
    /// Arrival to last byte.
    pub e2e_us: v1::Histogram,
    /// By outcome, and tokens.
    pub counters: v1::Counters,
    /// Sums; the golden fields are left absent.
    pub quality: v1::Quality,
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

impl Recorder {
    /// It left the queue after this long.
    pub fn queued(&self, time: Duration) {
        self.shard().queue_us.record(micros(time));
    }

    /// Its first token came this long after it arrived.
    pub fn first_token(&self, time: Duration) {
        let shard = self.shard();
        shard.ttft_us.record(micros(time));
        shard.tokens_out.fetch_add(1, Ordering::Relaxed);
    }

    /// A token came this long after the one before.
    pub fn next_token(&self, time: Duration) {
        let shard = self.shard();
        shard.itl_us.record(micros(time));
        shard.tokens_out.fetch_add(1, Ordering::Relaxed);
    }

    /// It ended this long after it arrived; `generating` is the time from the first token to the last. `tokens_told` of its tokens were
    /// told one by one.
    pub fn ended(
        &self,
        outcome: Outcome,
        e2e: Duration,
        generating: Duration,
        tokens_in: u64,
        tokens_out: u64,
        tokens_told: u64,
    ) {
        let shard = self.shard();
        shard.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        shard.tokens_in.fetch_add(tokens_in, Ordering::Relaxed);
        shard.tokens_out.fetch_add(tokens_out.saturating_sub(tokens_told), Ordering::Relaxed);
        if outcome == Outcome::Ok {
            shard.e2e_us.record(micros(e2e));
            if tokens_out > 1 {
                shard.tpot_us.record(micros(generating) / (tokens_out - 1));
            }
        }
    }

    /// What the answer was like.
    pub fn judged(&self, quality: AnswerQuality) {
        let shard = self.shard();
        let count = |counter: &AtomicU64, yes: bool| {
            if yes {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        count(&shard.responses, true);
        shard.logprob_micros.fetch_add((quality.logprob_sum * 1e6) as i64, Ordering::Relaxed);
        shard.entropy_micros.fetch_add((quality.entropy_sum * 1e6) as i64, Ordering::Relaxed);
        shard.scored_tokens.fetch_add(quality.scored_tokens, Ordering::Relaxed);
        count(&shard.empty, quality.empty);
        count(&shard.truncated, quality.truncated);
        count(&shard.repetitive, quality.repetitive);
        count(&shard.refused, quality.refused);
        count(&shard.json_asked, quality.json.is_some());
        count(&shard.json_valid, quality.json == Some(true));
    }

    /// Takes what was recorded since the last call.
    pub fn drain(&self) -> Interval {
        let sum = |part: fn(&Shard) -> &AtomicU64| -> u64 {
            self.shards.iter().map(|shard| part(shard).swap(0, Ordering::Relaxed)).sum()
        };
        let micros = |part: fn(&Shard) -> &AtomicI64| -> f64 {
            self.shards.iter().map(|shard| part(shard).swap(0, Ordering::Relaxed)).sum::<i64>() as f64 / 1e6
        };
        Interval {
            queue_us: self.merged(|shard| &shard.queue_us),
            ttft_us: self.merged(|shard| &shard.ttft_us),
            itl_us: self.merged(|shard| &shard.itl_us),
            tpot_us: self.merged(|shard| &shard.tpot_us),
            e2e_us: self.merged(|shard| &shard.e2e_us),
            counters: v1::Counters {
                requests_ok: sum(|shard| &shard.outcomes[Outcome::Ok as usize]),
                requests_client_error: sum(|shard| &shard.outcomes[Outcome::ClientError as usize]),
                requests_server_error: sum(|shard| &shard.outcomes[Outcome::ServerError as usize]),
                requests_cancelled: sum(|shard| &shard.outcomes[Outcome::Cancelled as usize]),
                requests_deadline: sum(|shard| &shard.outcomes[Outcome::Deadline as usize]),
                tokens_in: sum(|shard| &shard.tokens_in),
                tokens_out: sum(|shard| &shard.tokens_out),
                ..v1::Counters::default()
            },
            quality: v1::Quality {
                responses: sum(|shard| &shard.responses),
                token_logprob_sum: micros(|shard| &shard.logprob_micros),
                token_entropy_sum: micros(|shard| &shard.entropy_micros),
                scored_tokens: sum(|shard| &shard.scored_tokens),
                empty_responses: sum(|shard| &shard.empty),
                truncated_responses: sum(|shard| &shard.truncated),
                repetitive_responses: sum(|shard| &shard.repetitive),
                refused_responses: sum(|shard| &shard.refused),
                json_asked: sum(|shard| &shard.json_asked),
                json_valid: sum(|shard| &shard.json_valid),
                ..v1::Quality::default()
            },
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[SHARD.with(|shard| *shard)]
    }

    fn merged(&self, part: fn(&Shard) -> &AtomicHistogram) -> v1::Histogram {
        SparseHistogram::from_buckets(self.shards.iter().flat_map(|shard| part(shard).drain())).encode()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
