//! From a row of logits to the next token.

use std::collections::HashMap;

use llmdeck_kernels::logits::{
    LogitSummary, RUN, Weighing, largest, peak, place_of, summarize_logits, weigh, weigh_each,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Likeliest tokens that make up a usual `top_p`.
const MOSTLY_ENOUGH: usize = 64;

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
    /// Weights of the last row that was drawn from, by the run.
    runs: Vec<f32>,
}

impl Sampler {
    /// For a sequence that begins with `prompt`.
    pub fn new(options: SamplingOptions, prompt: &[u32]) -> Self {
        let in_prompt = if options.repetition_penalty == 1.0 {
            HashMap::new()
        } else {
            prompt.iter().map(|token| (*token, ())).collect()
        };
        Self {
            rng: StdRng::seed_from_u64(options.seed),
            options,
            in_prompt,
            in_answer: HashMap::new(),
            runs: Vec::new(),
        }
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
            largest(logits, count).into_iter().map(|(token, logit)| (token, logit - log_normalizer)).collect()
        });
        let is_narrowed = rule_out(logits)?;
        let adjusted: HashMap<u32, f32> = self.remember_adjusted(logits);
        let token = if self.options.temperature > 0.0 {
            self.draw(logits)
        } else if adjusted.is_empty() && !is_narrowed {
            place_of(logits, peak).unwrap_or(0) as u32
        } else {
            likeliest(logits)
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
        let peak = peak(logits);
        if !peak.is_finite() {
            return likeliest(logits);
        }
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let weighing = Weighing { peak, temperature, least: min_p };
        if top_k.is_none() && top_p >= 1.0 {
            return self.draw_from_all(logits, weighing);
        }
        let (mut kept, mut left) = if let Some(count) = top_k {
            let kept = heaviest(logits, weighing, count.max(1));
            let wanted = top_p * total(&kept);
            (kept, wanted)
        } else {
            weigh(logits, weighing, &mut self.runs);
            let wanted = top_p * self.runs.iter().sum::<f32>();
            let kept = heaviest(logits, weighing, MOSTLY_ENOUGH);
            if kept.len() == MOSTLY_ENOUGH && total(&kept) < wanted {
                let least = least_of_heaviest(logits, weighing, wanted);
                return self.draw_from_all(logits, Weighing { least, ..weighing });
            }
            (kept, wanted)
        };
        let wanted = kept.iter().take_while(|(_, weight)| {
            let wanted = left > 0.0;
            left -= weight;
            wanted
        });
        let count = wanted.count().max(1);
        kept.truncate(count);
        let mut point = self.rng.random::<f32>() * total(&kept);
        let chosen = kept.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        chosen.or(kept.last()).map_or(0, |(token, _)| *token)
    }

    fn draw_from_all(&mut self, logits: &[f32], weighing: Weighing) -> u32 {
        weigh(logits, weighing, &mut self.runs);
        let total: f64 = self.runs.iter().map(|weight| f64::from(*weight)).sum();
        let mut point = self.rng.random::<f64>() * total;
        // Sums of a run and of its tokens one by one are rounded apart: the last that weighs anything stands for what is left.
        let mut chosen = 0;
        for (run, weight) in self.runs.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            chosen = run;
            if point < f64::from(*weight) {
                break;
            }
            point -= f64::from(*weight);
        }
        let first = chosen * RUN;
        let mut token = first;
        for (index, logit) in logits[first..].iter().take(RUN).enumerate() {
            let weight = weighing.weight(*logit);
            if weight > 0.0 {
                token = first + index;
                point -= f64::from(weight);
            }
            if point < 0.0 {
                break;
            }
        }
        token as u32
    }
}

/// Tokens with their weights, the heaviest first.
fn heaviest(logits: &[f32], weighing: Weighing, count: usize) -> Vec<(u32, f32)> {
    let largest = largest(logits, count).into_iter();
    let weights = largest.map(|(token, logit)| (token, weighing.weight(logit)));
    weights.take_while(|(_, weight)| *weight > 0.0).collect()
}

fn total(tokens: &[(u32, f32)]) -> f32 {
    tokens.iter().map(|(_, weight)| weight).sum()
}

/// The least weight of the heaviest tokens that make up `wanted` together. Tokens are counted by octaves and their eighths, and only
/// those of the eighth in which it lies are put in order.
fn least_of_heaviest(logits: &[f32], weighing: Weighing, wanted: f32) -> f32 {
    const MANTISSA_BITS: u32 = 23;
    let part_of = |weight: f32| (weight.to_bits() >> (MANTISSA_BITS - 3)) as usize;
    let mut weights = Vec::new();
    weigh_each(logits, weighing, &mut weights);
    // None is above 1.
    let mut parts = vec![0.0f64; part_of(1.0) + 1];
    for weight in &weights {
        parts[part_of(*weight)] += f64::from(*weight);
    }
    let mut left = f64::from(wanted);
    let last = (0..parts.len()).rev().find(|part| {
        let is_last = left <= parts[*part];
        if !is_last {
            left -= parts[*part];
        }
        is_last
    });
    weights.retain(|weight| part_of(*weight) == last.unwrap_or(0));
    weights.sort_unstable_by(|a, b| b.total_cmp(a));
    let least = weights.iter().find(|weight| {
        left -= f64::from(**weight);
        left <= 0.0
    });
    least.or(weights.last()).copied().unwrap_or(0.0)
}

fn likeliest(logits: &[f32]) -> u32 {
    place_of(logits, peak(logits)).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

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

    /// The filters as their definitions have them, on all tokens in order.
    fn kept_by_definition(options: &SamplingOptions, logits: &[f32]) -> Vec<u32> {
        let weight = |logit: &f32| f64::from(logit / options.temperature).exp();
        let mut all: Vec<(u32, f64)> = (0u32..).zip(logits.iter().map(weight)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let most = all[0].1;
        all.retain(|(_, weight)| *weight >= f64::from(options.min_p) * most);
        all.truncate(options.top_k.unwrap_or(usize::MAX));
        let mut left = f64::from(options.top_p) * all.iter().map(|(_, weight)| weight).sum::<f64>();
        let kept = all.iter().take_while(|(_, weight)| {
            let wanted = left > 0.0;
            left -= weight;
            wanted
        });
        kept.map(|(token, _)| *token).collect()
    }

    proptest! {
        #[test]
        fn filters_keep_of_a_large_vocabulary_what_they_are_defined_to_keep(
            seed in any::<u64>(), spread in 0.2f32..6.0, temperature in 0.3f32..2.0, top_p in 0.05f32..1.0,
            top_k in prop::option::of(1usize..300), min_p in prop_oneof![Just(0f32), 0f32..0.3],
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let logits: Vec<f32> = (0..5_000).map(|_| rng.random_range(-spread..spread)).collect();
            let options = SamplingOptions { temperature, top_p, top_k, min_p, seed, ..Default::default() };
            let kept = kept_by_definition(&options, &logits);
            let drawn = drawn(&options, &logits, 60);
            // Sums are rounded: one more or less at the end is as good.
            let beyond = drawn.iter().filter(|token| !kept.contains(token)).collect::<std::collections::HashSet<_>>();
            prop_assert!(beyond.len() <= 1, "{beyond:?} of {}", kept.len());
            prop_assert!(kept.len() > 1 || drawn[0] == kept[0]);
        }

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
