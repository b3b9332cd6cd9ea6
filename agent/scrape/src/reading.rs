//! What one scrape says, model by model.

use std::collections::BTreeMap;

use crate::dialect::{Kind, Meaning};
use crate::exposition::{ExpositionError, Sample, parse};

/// Models of one server; the rest are left out.
const MOST_MODELS: usize = 64;
const MICROS: f64 = 1e6;
/// Upper bounds of buckets above this are of no use: a day.
const HIGHEST_US: f64 = 86_400.0 * MICROS;

/// A server at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Whose names it uses.
    pub kind: Kind,
    /// By the name that the server serves it under; one without a name where it does not say.
    pub models: BTreeMap<String, ModelReading>,
}

/// A model at a moment. What the server does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelReading {
    /// Requests that run.
    pub running: Option<f64>,
    /// Requests that wait.
    pub waiting: Option<f64>,
    /// Used part of the cache of keys and values, 0 to 1.
    pub kv_used_share: Option<f64>,
    /// Tokens that prefixes were looked up for, and those that were found, since the start.
    pub prefix_asked: Option<f64>,
    /// See `prefix_asked`.
    pub prefix_found: Option<f64>,
    /// Since the start.
    pub preemptions: Option<f64>,
    /// Requests that ended well, since the start.
    pub ok: Option<f64>,
    /// Of those, what their length limit cut off, since the start.
    pub cut_off: Option<f64>,
    /// Requests that failed, since the start.
    pub failed: Option<f64>,
    /// Requests that their clients gave up, since the start.
    pub cancelled: Option<f64>,
    /// Tokens of prompts, since the start.
    pub tokens_in: Option<f64>,
    /// Generated tokens, since the start.
    pub tokens_out: Option<f64>,
    /// Tokens guessed ahead, and those of them that were right, since the start.
    pub guessed: Option<f64>,
    /// See `guessed`.
    pub guessed_right: Option<f64>,
    /// Arrival to the first step.
    pub queue: Option<Buckets>,
    /// Arrival to the first token.
    pub ttft: Option<Buckets>,
    /// Between two tokens.
    pub itl: Option<Buckets>,
    /// Arrival to the last token.
    pub e2e: Option<Buckets>,
    /// Memory that it takes, in bytes.
    pub resident_bytes: Option<f64>,
}

/// A distribution since the start, as coarse as the server counts it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Upper bounds in microseconds, rising, without the infinite one.
    pub bounds_us: Vec<u64>,
    /// How many were up to each bound.
    pub up_to: Vec<f64>,
    /// How many there were in all.
    pub total: f64,
}

impl Reading {
    /// Of an exposition; `None` when it is of no server that is known.
    ///
    /// # Errors
    /// When the text is no exposition.
    pub fn of(text: &str) -> Result<Option<Self>, ExpositionError> {
        let samples = parse(text, |name| Kind::ALL.iter().any(|kind| name.starts_with(kind.prefix())))?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| samples.iter().any(|sample| sample.name.starts_with(kind.prefix())));
        let Some(kind) = kind else { return Ok(None) };
        let mut by_model: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in &samples {
            let model = sample.label("model_name").unwrap_or_default();
            if by_model.contains_key(model) || by_model.len() < MOST_MODELS {
                by_model.entry(model).or_default().push(sample);
            }
        }
        // What a server says of itself as a whole is no model's, when its models have names.
        if by_model.len() > 1 {
            by_model.remove("");
        }
        let models =
            by_model.into_iter().map(|(model, samples)| (model.to_owned(), of_model(kind, &samples)));
        Ok(Some(Self { kind, models: models.collect() }))
    }
}

fn of_model(kind: Kind, samples: &[&Sample]) -> ModelReading {
    let mut reading = ModelReading::default();
    for (meaning, name) in kind.names() {
        if meaning.is_distribution() {
            let slot = match meaning {
                Meaning::Queue => &mut reading.queue,
                Meaning::Ttft => &mut reading.ttft,
                Meaning::Itl => &mut reading.itl,
                _ => &mut reading.e2e,
            };
            if slot.is_none() {
                *slot = buckets(samples, name);
            }
            continue;
        }
        let of_name = || samples.iter().filter(|sample| sample.name == *name && sample.value.is_finite());
        let sum = |with: fn(&str) -> bool| -> Option<f64> {
            let ended = |sample: &&&Sample| with(sample.label("finished_reason").unwrap_or_default());
            of_name().filter(ended).map(|sample| sample.value.max(0.0)).reduce(|sum, value| sum + value)
        };
        let slot = match meaning {
            Meaning::Running => &mut reading.running,
            Meaning::Waiting => &mut reading.waiting,
            Meaning::KvUsedShare => {
                // Of several engines behind one name: their mean.
                let (count, sum) = of_name().fold((0, 0.0), |(n, sum), sample| (n + 1, sum + sample.value));
                reading.kv_used_share =
                    reading.kv_used_share.or((count > 0).then(|| (sum / f64::from(count)).clamp(0.0, 1.0)));
                continue;
            }
            Meaning::PrefixAsked => &mut reading.prefix_asked,
            Meaning::PrefixFound => &mut reading.prefix_found,
            Meaning::Preemptions => &mut reading.preemptions,
            Meaning::Ended => {
                reading.ok = reading.ok.or(sum(|reason| !matches!(reason, "abort" | "error")));
                reading.cut_off = reading.cut_off.or(sum(|reason| reason == "length"));
                reading.cancelled = reading.cancelled.or(sum(|reason| reason == "abort"));
                reading.failed = reading.failed.or(sum(|reason| reason == "error"));
                continue;
            }
            Meaning::Failed => &mut reading.failed,
            Meaning::Cancelled => &mut reading.cancelled,
            Meaning::TokensIn => &mut reading.tokens_in,
            Meaning::Guessed => &mut reading.guessed,
            Meaning::GuessedRight => &mut reading.guessed_right,
            _ => &mut reading.tokens_out,
        };
        *slot = slot.or(sum(|_| true));
    }
    reading
}

/// All series of a histogram together; they have the same buckets.
fn buckets(samples: &[&Sample], name: &str) -> Option<Buckets> {
    let mut up_to: BTreeMap<u64, f64> = BTreeMap::new();
    let mut total = None;
    for sample in samples.iter().filter(|sample| sample.value.is_finite() && sample.value >= 0.0) {
        if sample.name.strip_suffix("_bucket") != Some(name) {
            continue;
        }
        let Some(bound) = sample.label("le").and_then(|bound| bound.parse::<f64>().ok()) else { continue };
        let bound_us = bound * MICROS;
        if bound_us.is_infinite() {
            total = Some(total.unwrap_or(0.0) + sample.value);
        } else if (1.0..=HIGHEST_US).contains(&bound_us) {
            *up_to.entry(bound_us.round() as u64).or_default() += sample.value;
        }
    }
    let total = total?;
    let (bounds_us, up_to) = up_to.into_iter().unzip();
    Some(Buckets { bounds_us, up_to, total })
}

#[cfg(test)]
mod tests {
    use super::{Kind, Reading};

    fn only(text: &str) -> (Kind, String, super::ModelReading) {
        let reading = Reading::of(text).unwrap().unwrap();
        let (name, model) = reading.models.into_iter().next().unwrap();
        (reading.kind, name, model)
    }

    #[test]
    fn names_of_vllm_old_and_new_are_understood() {
        let text = r#"
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.7
vllm:gpu_cache_usage_perc{model_name="m"} 0.1
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 1.0
vllm:time_per_output_token_seconds_bucket{le="0.01",model_name="m"} 4.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 5.0
python_info{implementation="CPython"} 1.0
"#;
        let (kind, name, model) = only(text);
        assert_eq!((kind, name.as_str()), (Kind::Vllm, "m"));
        assert_eq!((model.running, model.waiting), (Some(4.0), None));
        assert!((model.kv_used_share.unwrap() - 0.6).abs() < 1e-9);
        assert_eq!((model.ok, model.cut_off), (Some(9.0), Some(2.0)));
        assert_eq!((model.cancelled, model.failed), (Some(1.0), None));
        let itl = model.itl.unwrap();
        assert_eq!((itl.bounds_us, itl.up_to, itl.total), (vec![10_000], vec![4.0], 5.0));
    }

    #[test]
    fn other_servers_names_are_understood() {
        let (kind, name, model) = only(
            "llamacpp:prompt_tokens_total 5\nllamacpp:requests_deferred 2\nllamacpp:tokens_predicted_total 9\n",
        );
        assert_eq!((kind, name.as_str()), (Kind::LlamaCpp, ""));
        assert_eq!((model.waiting, model.tokens_in, model.tokens_out), (Some(2.0), Some(5.0), Some(9.0)));
        let (kind, _, model) = only(
            "tgi_queue_size 4\ntgi_request_generated_tokens_sum 80\ntgi_request_duration_bucket{le=\"+Inf\"} 3\n",
        );
        assert_eq!((kind, model.waiting, model.tokens_out), (Kind::Tgi, Some(4.0), Some(80.0)));
        assert_eq!(model.e2e.unwrap().total, 3.0);
        let (kind, name, model) = only(
            "sglang:token_usage{model_name=\"q\"} 0.28\nsglang:cached_tokens_total{model_name=\"q\"} 3\nsglang:prompt_tokens_total{model_name=\"q\"} 12\n",
        );
        assert_eq!((kind, name.as_str(), model.kv_used_share), (Kind::Sglang, "q", Some(0.28)));
        assert_eq!((model.prefix_asked, model.prefix_found), (Some(12.0), Some(3.0)));
    }

    #[test]
    fn another_programs_metrics_are_nobodys() {
        assert_eq!(Reading::of("go_goroutines 5\n"), Ok(None));
        assert_eq!(Reading::of(""), Ok(None));
    }
}
