use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use llmdeck_load::bench::{Api, Arrivals, Length, LoadShape, Objectives, Plan, Prompts};
use llmdeck_proto::v1::BenchRequest;
use serde_json::{Value, json};

use super::target;
use crate::cli::span::span;
use crate::cli::{CliError, Common};

const MOST_RATE_PER_S: f64 = 1_000_000.0;

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArguments {
    /// A deployment of the agent; any OpenAI-compatible server: http://HOST:PORT or https://HOST; or `node` for the node itself: memory,
    /// arithmetic, disk, and how near its loaded models come.
    #[arg(value_name = "NAME|URL|node")]
    server: String,
    /// Let the agent ask, on its node, as a job that goes on when this command is gone: also over ssh://.
    #[arg(long, conflicts_with_all = ["sweep", "search", "dataset", "shared_prefix", "turns", "requests", "key_env", "runs"])]
    pub(super) job: bool,
    /// The model to name; what the server lists, where it lists one.
    #[arg(long)]
    model: Option<String>,
    /// Which endpoint; chat, and completions where the server refuses that.
    #[arg(long, value_enum)]
    api: Option<ApiName>,
    /// Environment variable with the server's API key.
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,
    /// Open loop: this many requests a second, whatever the server does.
    #[arg(long, value_name = "PER_S", group = "shape")]
    rate: Option<f64>,
    /// Closed loop: this many users, each of whom asks again when the answer is there.
    #[arg(long, value_name = "USERS", group = "shape", default_value_t = 8)]
    concurrency: usize,
    /// One open-loop run for each of these rates: A..B or A..B:COUNT, evenly by ratio.
    #[arg(long, value_name = "A..B", group = "shape")]
    sweep: Option<String>,
    /// Find the highest rate at which 99 of 100 answers keep the objectives, starting here.
    #[arg(long, value_name = "PER_S", group = "shape", requires = "objective")]
    search: Option<f64>,
    /// How open-loop requests come: poisson, constant, gamma:VARIATION, or trace:FILE with a time in seconds on each line.
    #[arg(long, default_value = "poisson")]
    arrivals: String,
    /// Measured time, such as 30s or 2m.
    #[arg(long, value_parser = span, default_value = "30s")]
    duration: Duration,
    /// End after this many measured requests instead.
    #[arg(long)]
    requests: Option<u64>,
    /// Sent first, and not measured.
    #[arg(long, value_parser = span, default_value = "3s")]
    warm_up: Duration,
    /// How often it is all done; the runs are pooled.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) runs: u64,
    /// Length of prompts: 128, 64..256 or lognormal:MEDIAN:SIGMA.
    #[arg(long, value_name = "LENGTH", default_value = "128")]
    prompt_tokens: Length,
    /// Length of answers; shorter ones only where the server does not know ignore_eos.
    #[arg(long, value_name = "LENGTH", default_value = "64")]
    output_tokens: Length,
    /// Let answers end where the model ends them.
    #[arg(long)]
    natural_end: bool,
    /// Prompts from a file of JSON lines, each with prompt or messages.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "shared_prefix", "turns"])]
    dataset: Option<PathBuf>,
    /// Prompts begin alike, in GROUPS groups with TOKENS tokens: GROUPSxTOKENS.
    #[arg(long, value_name = "GROUPSxTOKENS")]
    shared_prefix: Option<String>,
    /// Turns of a conversation, each with all before it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    turns: u32,
    /// What a good answer keeps: ttft=200ms,tpot=50ms,e2e=5s. Goodput counts those.
    #[arg(long, value_name = "LIMITS", value_parser = objectives)]
    objective: Option<Objectives>,
    /// A request that takes longer has failed.
    #[arg(long, value_parser = span, default_value = "60s")]
    patience: Duration,
    /// Requests under way at once; one that is due beyond it has failed.
    #[arg(long, default_value_t = 10_000)]
    max_in_flight: usize,
    /// The same seed asks the same at the same times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the outcome as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Write a page with charts that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Write the percentiles as an image.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Compare with what --out wrote before; exits with 1 when something got worse beyond the margin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sweep", "search"])]
    pub(super) against: Option<PathBuf>,
    /// What may get worse, as a share.
    #[arg(long, default_value_t = 0.05)]
    pub(super) margin: f64,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ApiName {
    Chat,
    Completions,
}

/// How many runs there are.
pub(super) enum Kind {
    One,
    Sweep(Vec<f64>),
    Search { start_per_s: f64 },
}

impl BenchArguments {
    /// Whether it is the node that is measured.
    pub(super) fn is_of_node(&self) -> bool {
        self.server == "node"
    }

    /// Whether completions are asked for where the server refuses chats.
    pub(super) fn may_fall_back(&self) -> bool {
        self.api.is_none()
    }

    /// What the agent is asked for where it makes the run.
    pub(super) fn job_request(&self) -> Result<BenchRequest, CliError> {
        let usage = |why: &str| Err(CliError::Usage(format!("--job: {why}")));
        let Some(deployment) = self.deployment() else { return usage("name a deployment of the agent") };
        let (Length::Fixed(prompt), Length::Fixed(output)) = (self.prompt_tokens, self.output_tokens) else {
            return usage("lengths are numbers, such as --prompt-tokens 128");
        };
        let tokens = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let concurrency = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        Ok(BenchRequest {
            deployment: deployment.to_owned(),
            rate_per_s: self.rate.unwrap_or(0.0),
            concurrency,
            prompt_tokens: tokens(prompt),
            output_tokens: tokens(output),
            duration_s: u32::try_from(self.duration.as_secs().max(1)).unwrap_or(u32::MAX),
            seed: self.seed,
        })
    }

    /// The deployment that is asked, where it is not another's server.
    pub(super) fn deployment(&self) -> Option<&str> {
        Some(self.server.as_str()).filter(|server| !server.contains("://"))
    }

    pub(super) async fn plan(&self) -> Result<(Kind, Plan), CliError> {
        let usage = CliError::Usage;
        let key = self.key_env.as_ref().map(|name| {
            std::env::var(name).map_err(|_| usage(format!("--key-env {name}: there is no such variable")))
        });
        let key = key.transpose()?;
        let (common, model) = (&self.common, self.model.as_deref());
        let place = target::find(&self.server, model, key.as_deref(), &common.target, self.patience).await?;
        let arrivals = arrivals(&self.arrivals).map_err(usage)?;
        let rate = |rate: f64| {
            if rate.is_finite() && rate > 0.0 && rate <= MOST_RATE_PER_S {
                Ok(rate)
            } else {
                Err(usage(format!(
                    "a rate must be above 0 and at most {MOST_RATE_PER_S} a second, not {rate}"
                )))
            }
        };
        let traced = matches!(arrivals, Arrivals::Trace(_));
        let open = |rate_per_s: f64| LoadShape::Open { arrivals: arrivals.clone(), rate_per_s };
        let (kind, shape) = match (self.rate, &self.sweep, self.search) {
            (_, Some(sweep), _) => (Kind::Sweep(rates(sweep).map_err(usage)?), open(1.0)),
            (_, _, Some(start)) => (Kind::Search { start_per_s: rate(start)? }, open(1.0)),
            (Some(per_s), ..) => (Kind::One, open(rate(per_s)?)),
            _ if traced => (Kind::One, open(1.0)),
            _ if self.concurrency == 0 => return Err(usage("--concurrency must be at least 1".into())),
            _ => (Kind::One, LoadShape::Closed { concurrency: self.concurrency }),
        };
        let plan = Plan {
            server: place.server,
            api: match self.api {
                None | Some(ApiName::Chat) => Api::Chat,
                Some(ApiName::Completions) => Api::Completions,
            },
            model: place.model,
            key,
            shape,
            prompts: self.prompts()?,
            answer: self.output_tokens,
            ignore_end: !self.natural_end,
            warm_up: self.warm_up,
            duration: (self.requests.is_none() && !traced).then_some(self.duration),
            requests: self.requests,
            patience: self.patience,
            max_in_flight: self.max_in_flight,
            seed: self.seed,
            objectives: self.objective.unwrap_or_default(),
            words_per_token: 1.0,
        };
        Ok((kind, plan))
    }

    fn prompts(&self) -> Result<Prompts, CliError> {
        if let Some(path) = &self.dataset {
            let wrong = |why: String| CliError::Usage(format!("--dataset {}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            return Prompts::dataset(&text).map_err(wrong);
        }
        let shared_prefix = self.shared_prefix.as_ref().map(|text| {
            let parts = text
                .split_once('x')
                .and_then(|(groups, tokens)| Some((groups.parse().ok()?, tokens.parse().ok()?)));
            parts.ok_or_else(|| {
                CliError::Usage(format!("--shared-prefix {text:?}: give GROUPSxTOKENS, such as 8x512"))
            })
        });
        Ok(Prompts::Synthetic {
            length: self.prompt_tokens,
            shared_prefix: shared_prefix.transpose()?,
            turns: self.turns,
        })
    }

    /// What is kept with an outcome, so that it can be done again.
    pub(super) fn describe(&self, plan: &Plan) -> Value {
        let shape = match &plan.shape {
            LoadShape::Open { arrivals: Arrivals::Trace(_), .. } => json!({ "trace": self.arrivals }),
            LoadShape::Open { rate_per_s, .. } => {
                json!({ "rate_per_s": rate_per_s, "arrivals": self.arrivals })
            }
            LoadShape::Closed { concurrency } => json!({ "concurrency": concurrency }),
        };
        let ms = |limit: Option<Duration>| limit.map(|limit| limit.as_millis() as u64);
        json!({
            "server": plan.server, "model": plan.model, "api": format!("{:?}", plan.api).to_lowercase(), "shape": shape,
            "prompts": match &self.dataset {
                Some(path) => json!({ "dataset": path }),
                None => json!({
                    "tokens": format!("{:?}", self.prompt_tokens), "shared_prefix": self.shared_prefix, "turns": self.turns,
                }),
            },
            "output_tokens": format!("{:?}", plan.answer), "ignore_end": plan.ignore_end,
            "warm_up_s": plan.warm_up.as_secs_f64(), "duration_s": plan.duration.map(|time| time.as_secs_f64()),
            "requests": plan.requests, "seed": plan.seed,
            "objectives_ms": {
                "ttft": ms(plan.objectives.ttft), "tpot": ms(plan.objectives.tpot), "e2e": ms(plan.objectives.e2e),
            },
        })
    }
}

fn objectives(text: &str) -> Result<Objectives, String> {
    let mut objectives = Objectives::default();
    for part in text.split(',') {
        let (name, limit) =
            part.split_once('=').ok_or_else(|| format!("{part:?}: give ttft=200ms, tpot=50ms or e2e=5s"))?;
        let limit = Some(span(limit)?);
        match name.trim() {
            "ttft" => objectives.ttft = limit,
            "tpot" => objectives.tpot = limit,
            "e2e" => objectives.e2e = limit,
            other => return Err(format!("{other:?} is no objective; ttft, tpot and e2e are")),
        }
    }
    Ok(objectives)
}

fn arrivals(text: &str) -> Result<Arrivals, String> {
    let wrong = || format!("--arrivals {text:?}: give poisson, constant, gamma:2 or trace:FILE");
    match text.split_once(':') {
        None if text == "poisson" => Ok(Arrivals::Poisson),
        None if text == "constant" => Ok(Arrivals::Constant),
        Some(("gamma", variation)) => {
            let variation = variation.parse().ok().filter(|variation| (0.05..=20.0).contains(variation));
            Ok(Arrivals::Gamma { variation: variation.ok_or_else(wrong)? })
        }
        Some(("trace", path)) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("--arrivals trace:{path}: {error}"))?;
            let mut times = Vec::new();
            for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let time = line.trim().parse::<f64>().ok().filter(|time| (0.0..=86_400.0).contains(time));
                let in_order = time.filter(|time| times.last().is_none_or(|last| last <= time));
                times.push(in_order.ok_or_else(|| {
                    format!(
                        "--arrivals trace:{path}: line {} is no time in seconds at or after the one before",
                        index + 1
                    )
                })?);
            }
            if times.is_empty() {
                Err(format!("--arrivals trace:{path}: it has no line"))
            } else {
                Ok(Arrivals::Trace(times))
            }
        }
        _ => Err(wrong()),
    }
}

fn rates(text: &str) -> Result<Vec<f64>, String> {
    let wrong = || format!("--sweep {text:?}: give A..B or A..B:COUNT, such as 1..64:7");
    let (range, count) =
        text.split_once(':').map_or((text, Ok(6)), |(range, count)| (range, count.parse::<u32>()));
    let (low, high) = range.split_once("..").ok_or_else(wrong)?;
    let (low, high): (f64, f64) = (low.parse().map_err(|_| wrong())?, high.parse().map_err(|_| wrong())?);
    let count = count.ok().filter(|count| (2..=100).contains(count)).ok_or_else(wrong)?;
    if !(low > 0.0 && high > low && high <= MOST_RATE_PER_S) {
        return Err(wrong());
    }
    Ok((0..count).map(|index| low * (high / low).powf(f64::from(index) / f64::from(count - 1))).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{arrivals, objectives, rates};

    #[test]
    fn rates_and_limits_are_read() {
        let sweep = rates("1..8:4").unwrap();
        assert!(
            sweep.iter().zip([1.0, 2.0, 4.0, 8.0]).all(|(rate, wanted)| (rate - wanted).abs() < 1e-9),
            "{sweep:?}"
        );
        let limits = objectives("ttft=200ms,e2e=5s").unwrap();
        assert_eq!((limits.ttft, limits.tpot), (Some(Duration::from_millis(200)), None));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        assert!(rates("8..1").unwrap_err().contains("1..64:7"));
        assert!(objectives("latency=1s").unwrap_err().contains("ttft"));
        assert!(arrivals("gamma:x").unwrap_err().contains("gamma:2"));
        assert!(arrivals("trace:/nonexistent").unwrap_err().contains("/nonexistent"));
    }
}
