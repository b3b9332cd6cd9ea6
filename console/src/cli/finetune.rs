//! `llmdeck finetune`: the data checked and shown first, then a job.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::{FinetuneRequest, FinetuneResponse};
use serde_json::{Map, Value, json};

use super::change::ChangeArguments;
use super::confirm::go_on;
use super::data_report::print_report;
use super::output::print_json;
use super::{CliError, jobs};
use crate::app::setting;
use crate::link::{LinkError, dial};

const MOST_SETTINGS_BYTES: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct FinetuneArguments {
    /// The deployment whose model learns.
    name: String,
    /// What it learns: a tag of the registry, a digest, or a file on the node (OpenAI chat, Alpaca or ShareGPT lines, Parquet, or
    /// plain text).
    #[arg(long, value_name = "REF")]
    dataset: String,
    /// Examples of what it can do already, mixed in so that it stays, or `none`; the datasets that its model was made from where
    /// it is not given.
    #[arg(long, value_name = "REF|none", default_value = "")]
    rehearsal: String,
    /// How many of them for each example of the dataset, 1.5 where it is not given; each epoch draws its own.
    #[arg(long, value_name = "RATIO")]
    rehearsal_ratio: Option<f64>,
    /// What is trained.
    #[arg(long, value_enum, default_value_t = Method::Lora)]
    method: Method,
    /// Settings in a TOML or JSON file, by PEFT's and transformers' names; options here override it.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Any setting, such as max_tokens=4096; may be given again.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting::parse)]
    set: Vec<(String, Value)>,
    /// Times that every example is seen.
    #[arg(long, value_name = "COUNT")]
    epochs: Option<u64>,
    /// Columns of the thin matrices.
    #[arg(long, value_name = "COUNT")]
    rank: Option<u64>,
    /// At its peak.
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Of everything that is drawn.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Scores it before and after; the deployment's own where it is not given.
    #[arg(long, value_name = "REF", default_value = "")]
    suite: String,
    /// The adapter's name; made from deployment and dataset where it is not given.
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// Jobs with a higher one go first.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// What to do with an adapter that is no worse than the model.
    #[arg(long, value_enum, default_value_t = Ship::None)]
    ship: Ship,
    /// Have the external trainer do it that the agent's configuration names.
    #[arg(long)]
    outside: bool,
    /// Follow the job to its end.
    #[arg(long)]
    watch: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Thin matrices beside the weights.
    Lora,
    /// The same, scaled by the root of the rank.
    Rslora,
    /// Magnitudes beside directions.
    Dora,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ship {
    /// Keep it.
    None,
    /// Begin a canary with it.
    Canary,
    /// Serve it at once.
    Replace,
}

impl FinetuneArguments {
    fn settings(&self) -> Result<String, CliError> {
        let mut settings = match &self.settings {
            Some(path) => read(path)?,
            None => Map::new(),
        };
        match self.method {
            Method::Lora => {}
            Method::Rslora => drop(settings.insert("use_rslora".into(), true.into())),
            Method::Dora => drop(settings.insert("use_dora".into(), true.into())),
        }
        let options = [
            ("epochs", self.epochs.map(Value::from)),
            ("rank", self.rank.map(Value::from)),
            ("learning_rate", self.learning_rate.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                settings.insert(name.into(), value);
            }
        }
        settings.extend(self.set.iter().cloned());
        Ok(Value::Object(settings).to_string())
    }

    fn request(&self, dry_run: bool) -> Result<FinetuneRequest, CliError> {
        let ship = match self.ship {
            Ship::None => "none",
            Ship::Canary => "canary",
            Ship::Replace => "replace",
        };
        Ok(FinetuneRequest {
            deployment: self.name.clone(),
            dataset: self.dataset.clone(),
            rehearsal: self.rehearsal.clone(),
            rehearsal_ratio: self.rehearsal_ratio.unwrap_or(0.0),
            settings_json: self.settings()?,
            suite: self.suite.clone(),
            tag: self.tag.clone(),
            priority: self.priority,
            ship: ship.into(),
            reason: self.reason.clone(),
            dry_run,
            outside: self.outside,
        })
    }
}

fn read(path: &PathBuf) -> Result<Map<String, Value>, CliError> {
    let wrong = |problem: String| CliError::Usage(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MOST_SETTINGS_BYTES {
        return Err(wrong(format!("has {size} bytes; at most {MOST_SETTINGS_BYTES} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))
    }
}

pub(super) async fn run(arguments: FinetuneArguments) -> Result<(), CliError> {
    let ChangeArguments { dry_run, yes, common } = &arguments.change;
    let mut client = JobsClient::new(dial(&common.target));
    if *dry_run || !(*yes || common.json) {
        let looked = client.finetune(arguments.request(true)?).await.map_err(LinkError::from)?.into_inner();
        if common.json {
            print_json(&looked_json(&looked))?;
        } else {
            show(&looked)?;
        }
        if !looked.refusal.is_empty() {
            return Err(CliError::Link(LinkError::Refused(format!(
                "the data may not be trained on: {}",
                looked.refusal
            ))));
        }
        if *dry_run {
            return Ok(());
        }
        go_on()?;
    }
    let begun = client.finetune(arguments.request(false)?).await.map_err(LinkError::from)?.into_inner();
    if common.json {
        print_json(&json!({ "job": begun.job_id }))?;
    } else {
        writeln!(io::stderr(), "job {} has begun; llmdeck jobs watch {}", begun.job_id, begun.job_id)?;
    }
    if arguments.watch { jobs::watch(client, &begun.job_id, common.json).await } else { Ok(()) }
}

fn looked_json(looked: &FinetuneResponse) -> Value {
    let report: Value = serde_json::from_str(&looked.report_json).unwrap_or_default();
    json!({ "plan": looked.plan, "refusal": looked.refusal, "data": report })
}

/// The checks as a table, and what would happen.
fn show(looked: &FinetuneResponse) -> Result<(), CliError> {
    let report: Value = serde_json::from_str(&looked.report_json).unwrap_or_default();
    print_report(&report)?;
    let mut out = io::stdout().lock();
    writeln!(out)?;
    for line in &looked.plan {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
