//! From a row of logits to the next token.

use std::collections::HashMap;

use llmdeck_kernels::elementwise::{LogitSummary, summarize_logits};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How the next token is chosen. Field names are OpenAI's where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Zero takes the likeliest token.
    pub temperature: f32,
    /// Least set of tokens whose probability reaches this (Holtzman et al. 2020); 1 keeps all.
    pub top_p: f32,
    /// Only this many likeliest tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Only tokens at least this likely relative to the likeliest (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// The same seed, prompt and options give the same answer.
    pub seed: u64,
    /// Logits of tokens seen in prompt or answer are divided by this where positive, multiplied where negative
    /// (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logit of each token that the answer has.
    pub presence_penalty: f32,
    /// Taken off the logit of each token, times how often the answer has it.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many likeliest tokens to report beside the chosen one; `None` reports none.
    pub top_logprobs: Option<usize>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            top_logprobs: None,
        }
    }
}

impl SamplingOptions {
    /// Takes the likeliest token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// A chosen token and what the model thought of it, before penalties, bias and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Likeliest tokens with their logprobs, likeliest first; as many as asked for.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    options: SamplingOptions,
    rng: StdRng,
    in_prompt: HashMap<u32, ()>,
    in_answer: HashMap<u32, u32>,
}

impl Sampler {
    /// For a sequence that begins with `prompt`.
    pub fn new(options: SamplingOptions, prompt: &[u32]) -> Self {
        let in_prompt = if options.repetition_penalty == 1.0 {
            HashMap::new()
        } else {
            prompt.iter().map(|token| (*token, ())).collect()
        };
        Self { rng: StdRng::seed_from_u64(options.seed), options, in_prompt, in_answer: HashMap::new() }
    }

    /// Chooses from `logits`, `[vocabulary]`, which it overwrites. A row without a finite number gives token 0 with
    /// a logprob of minus infinity.
    pub fn sample(&mut self, logits: &mut [f32]) -> Sampled {
        let Ok(sampled) = self.sample_among(logits, |_| Ok::<bool, std::convert::Infallible>(false));
        sampled
    }

    /// The same among what `rule_out` leaves, which sets logits to minus infinity and says whether it did so.
    ///
    /// # Errors
    /// What `rule_out` gave.
    pub fn sample_among<E>(
        &mut self,
        logits: &mut [f32],
        rule_out: impl FnOnce(&mut [f32]) -> Result<bool, E>,
    ) -> Result<Sampled, E> {
        let LogitSummary { peak, log_normalizer, entropy } = summarize_logits(logits);
        let top = self.options.top_logprobs.map_or_else(Vec::new, |count| {
            likeliest(logits, count)
                .into_iter()
                .map(|(token, logit)| (token, logit - log_normalizer))
                .collect()
        });
        let is_narrowed = rule_out(logits)?;
        let adjusted: HashMap<u32, f32> = self.remember_adjusted(logits);
        let token = if self.options.temperature > 0.0 {
            self.draw(logits)
        } else if adjusted.is_empty() && !is_narrowed {
            logits.iter().position(|logit| *logit == peak).unwrap_or(0) as u32
        } else {
            argmax(logits)
        };
        let raw = adjusted.get(&token).copied().or_else(|| logits.get(token as usize).copied());
        *self.in_answer.entry(token).or_default() += 1;
        Ok(Sampled { token, logprob: raw.unwrap_or(f32::NEG_INFINITY) - log_normalizer, entropy, top })
    }

    /// Applies penalties and bias; returns the raw logits of the tokens that changed.
    fn remember_adjusted(&self, logits: &mut [f32]) -> HashMap<u32, f32> {
        let options = &self.options;
        let mut raw = HashMap::new();
        let mut adjust = |token: u32, change: &dyn Fn(f32) -> f32| {
            if let Some(logit) = logits.get_mut(token as usize) {
                raw.entry(token).or_insert(*logit);
                *logit = change(*logit);
            }
        };
        if options.repetition_penalty != 1.0 {
            let penalize = |logit: f32| {
                if logit > 0.0 {
                    logit / options.repetition_penalty
                } else {
                    logit * options.repetition_penalty
                }
            };
            let fresh = self.in_answer.keys().filter(|token| !self.in_prompt.contains_key(token));
            for token in self.in_prompt.keys().chain(fresh) {
                adjust(*token, &penalize);
            }
        }
        if options.presence_penalty != 0.0 || options.frequency_penalty != 0.0 {
            for (token, count) in &self.in_answer {
                let penalty = options.presence_penalty + options.frequency_penalty * *count as f32;
                adjust(*token, &|logit| logit - penalty);
            }
        }
        for (token, bias) in &options.logit_bias {
            adjust(*token, &|logit| logit + bias);
        }
        raw
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let options = &self.options;
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !peak.is_finite() {
            return argmax(logits);
        }
        // Tokens e^-20 as likely as the likeliest are never drawn in practice; leaving them out keeps the sort short.
        let floor = if options.min_p > 0.0 { options.min_p.ln() } else { -20.0 };
        let mut candidates: Vec<(u32, f32)> = (0u32..)
            .zip(logits)
            .map(|(token, logit)| (token, (logit - peak) / options.temperature))
            .filter(|(_, scaled)| *scaled >= floor)
            .map(|(token, scaled)| (token, scaled.exp()))
            .collect();
        if options.top_k.is_some() || options.top_p < 1.0 {
            candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            candidates.truncate(options.top_k.unwrap_or(usize::MAX).max(1));
            let mut left = options.top_p * candidates.iter().map(|(_, weight)| weight).sum::<f32>();
            let kept = candidates
                .iter()
                .take_while(|(_, weight)| {
                    let wanted = left > 0.0;
                    left -= weight;
                    wanted
                })
                .count();
            candidates.truncate(kept.max(1));
        }
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut point = self.rng.random::<f32>() * total;
        let chosen = candidates.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        chosen.or(candidates.last()).map_or(0, |(token, _)| *token)
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0u32..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Sampler, SamplingOptions};

    fn drawn(options: &SamplingOptions, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(options.clone(), &[]);
        (0..count).map(|_| sampler.sample(&mut logits.to_vec()).token).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0];
        let tokens = drawn(&SamplingOptions::default(), &logits, 20_000);
        let total: f32 = logits.iter().map(|logit: &f32| logit.exp()).sum();
        for (token, logit) in (0u32..).zip(logits) {
            let share = tokens.iter().filter(|drawn| **drawn == token).count() as f32 / tokens.len() as f32;
            assert!((share - logit.exp() / total).abs() < 0.02, "token {token}: {share}");
        }
    }

    #[test]
    fn filters_keep_only_the_likely() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        let only = |options: SamplingOptions| {
            let mut tokens = drawn(&options, &logits, 2_000);
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(only(SamplingOptions { top_k: Some(1), ..Default::default() }), [1]);
        assert_eq!(only(SamplingOptions { top_k: Some(2), ..Default::default() }), [1, 2]);
        assert_eq!(only(SamplingOptions { top_p: 0.1, ..Default::default() }), [1]);
        assert_eq!(only(SamplingOptions { top_p: 0.9, ..Default::default() }), [1, 2]);
        assert_eq!(only(SamplingOptions { min_p: 0.5, ..Default::default() }), [1, 2]);
        assert_eq!(only(SamplingOptions { logit_bias: vec![(3, 100.0)], ..Default::default() }), [3]);
    }

    #[test]
    fn penalties_push_what_was_said_away_and_leave_logprobs_as_they_were() {
        let logits = [1.0, 1.5];
        for options in [
            SamplingOptions { presence_penalty: 1.0, ..SamplingOptions::greedy() },
            SamplingOptions { frequency_penalty: 1.0, ..SamplingOptions::greedy() },
            SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::greedy() },
        ] {
            assert_eq!(drawn(&options, &logits, 2), [1, 0], "{options:?}");
        }
        let mut sampler =
            Sampler::new(SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::greedy() }, &[1]);
        let sampled = sampler.sample(&mut logits.to_vec());
        assert_eq!(sampled.token, 0);
        assert!((sampled.logprob - (1.0f32 - (1f32.exp() + 1.5f32.exp()).ln())).abs() < 1e-6);
    }

    #[test]
    fn top_logprobs_are_sorted_and_entropy_is_of_the_whole() {
        let mut sampler =
            Sampler::new(SamplingOptions { top_logprobs: Some(2), ..SamplingOptions::greedy() }, &[]);
        let sampled = sampler.sample(&mut [0.0, 0.0, 0.0, 0.0]);
        assert_eq!(sampled.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
        assert!((sampled.entropy - 4f32.ln()).abs() < 1e-6);
        assert!((sampled.logprob + 4f32.ln()).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn any_row_gives_a_token_of_the_vocabulary(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -30f32..30.0], 1..40),
            temperature in 0f32..2.0, top_p in 0.01f32..1.0, top_k in prop::option::of(1usize..50),
            min_p in 0f32..1.0, seed in any::<u64>(),
        ) {
            let options = SamplingOptions { temperature, top_p, top_k, min_p, seed, ..Default::default() };
            let token = Sampler::new(options.clone(), &[]).sample(&mut logits.clone()).token;
            prop_assert!((token as usize) < logits.len());
            prop_assert_eq!(token, Sampler::new(options, &[]).sample(&mut logits.clone()).token);
        }
    }
}
