//! Deployments as a file says that they are to be: compared with what serves, and moved there.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::link::Channel;
use clap::Args;
use llmdeck_proto::v1::rollout::Strategy;
use llmdeck_proto::v1::{ActionContext, ChangePlan, RolloutStep};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::change::{ChangeArguments, carry_out, print_plan, step};
use super::confirm::go_on;
use super::output::print_json;
use super::{CliError, Common};
use crate::app::{Action, RevisionParts, RolloutChoice, setting};
use crate::link::dial;
use crate::request;

const MOST_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The file with the deployments.
    file: PathBuf,
    /// Exit with 1 when something differs.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    common: Common,
}

/// What a file declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeploymentFile {
    #[serde(rename = "deployment")]
    deployments: Vec<Declared>,
}

/// One deployment as it is to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    /// A tag, a digest, or a path on the node.
    model: String,
    /// Over the model; as `model`.
    #[serde(default)]
    adapter: String,
    /// In front of every conversation; as `model`.
    #[serde(default)]
    prompt: String,
    /// Settings of its engine in the place of the deployment's own.
    #[serde(default)]
    engine: Map<String, Value>,
    /// As the agent's configuration says where it is absent.
    strategy: Option<DeclaredStrategy>,
    /// `5%:10m:200`, one for each step.
    #[serde(default)]
    steps: Vec<String>,
    auto_promote: Option<bool>,
    #[serde(default)]
    force: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeclaredStrategy {
    Replace,
    Canary,
    Shadow,
}

/// A deployment that is to change.
struct Difference {
    action: Action,
    plan: ChangePlan,
}

fn read(path: &Path) -> Result<DeploymentFile, CliError> {
    let wrong = |problem: String| CliError::Usage(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(wrong(format!("has {size} bytes; at most {MOST_BYTES} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let file: DeploymentFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut names: Vec<&str> = file.deployments.iter().map(|declared| declared.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(format!("two deployments are named {:?}", twice[0])));
    }
    Ok(file)
}

fn action(declared: &Declared) -> Result<Action, CliError> {
    let steps = declared.steps.iter().map(|text| step(text)).collect::<Result<Vec<RolloutStep>, String>>();
    let steps = steps.map_err(|problem| CliError::Usage(format!("{}: steps: {problem}", declared.name)))?;
    let strategy = match declared.strategy {
        None => Strategy::Unspecified,
        Some(DeclaredStrategy::Replace) => Strategy::Replace,
        Some(DeclaredStrategy::Canary) => Strategy::Canary,
        Some(DeclaredStrategy::Shadow) => Strategy::Shadow,
    };
    Ok(Action::Deploy {
        deployment: declared.name.clone(),
        parts: RevisionParts {
            model: declared.model.clone(),
            adapter: declared.adapter.clone(),
            prompt: declared.prompt.clone(),
            engine_settings_json: setting::object(declared.engine.clone()),
        },
        force: declared.force,
        how: RolloutChoice { strategy, steps, auto_promote: declared.auto_promote },
    })
}

/// What would change, in the file's order. The agent resolves every name, so that a tag that has moved is a difference.
async fn differences(channel: &Channel, file: &DeploymentFile) -> Result<Vec<Difference>, CliError> {
    let mut differences = Vec::new();
    for declared in &file.deployments {
        let action = action(declared)?;
        let dry = ActionContext { dry_run: true, ..ActionContext::default() };
        let plan = request::act(channel.clone(), action.clone(), dry).await?.plan.unwrap_or_default();
        if !plan.same_parts {
            differences.push(Difference { action, plan });
        }
    }
    Ok(differences)
}

/// Says what would change.
pub(super) async fn diff(arguments: DiffArguments) -> Result<ExitCode, CliError> {
    let DiffArguments { file, exit_code, common } = arguments;
    let declared = read(&file)?;
    let differences = differences(&dial(&common.target), &declared).await?;
    if common.json {
        let plans = differences.iter().map(|Difference { plan, .. }| {
            json!({
                "deployment": plan.deployment, "from_revision": plan.from_revision,
                "from_model": plan.from_model, "from_digest": plan.from_digest,
                "to_model": plan.to_model, "to_digest": plan.to_digest,
            })
        });
        print_json(&plans.collect::<Vec<_>>())?;
    } else {
        let mut out = io::stdout().lock();
        for Difference { plan, .. } in &differences {
            let short = |digest: &str| digest.chars().take(12).collect::<String>();
            writeln!(out, "{}", plan.deployment)?;
            writeln!(out, "- {}  {}  @{}", plan.from_model, short(&plan.from_digest), plan.from_revision)?;
            writeln!(out, "+ {}  {}", plan.to_model, short(&plan.to_digest))?;
        }
        if differences.is_empty() {
            writeln!(out, "nothing differs")?;
        }
    }
    Ok(if exit_code && !differences.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Moves every deployment of a file that differs, one after the other; the first that fails ends it.
pub(super) async fn deploy(path: &Path, reason: String, change: ChangeArguments) -> Result<(), CliError> {
    let declared = read(path)?;
    let channel = dial(&change.common.target);
    let differences = differences(&channel, &declared).await?;
    if !change.common.json {
        for Difference { plan, .. } in &differences {
            print_plan(plan, io::stderr())?;
            eprintln!();
        }
    }
    if differences.is_empty() && !change.common.json {
        eprintln!("nothing differs");
    }
    if change.dry_run || differences.is_empty() {
        if change.common.json {
            let plans = differences.iter().map(|difference| super::change::plan_json(&difference.plan));
            print_json(&plans.collect::<Vec<_>>())?;
        }
        return Ok(());
    }
    if !change.yes {
        go_on()?;
    }
    for Difference { action, plan } in differences {
        carry_out(&channel, action, &plan, reason.clone(), change.common.json).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{action, read};

    fn problem(text: &str) -> String {
        let path = std::env::temp_dir().join(format!("llmdeck-file-{:016x}.toml", rand::random::<u64>()));
        std::fs::write(&path, text).unwrap();
        let outcome =
            read(&path).and_then(|file| file.deployments.iter().try_for_each(|one| action(one).map(drop)));
        std::fs::remove_file(path).unwrap();
        outcome.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_file_says_what_is_to_serve_and_mistakes_are_named() {
        let good = "[[deployment]]\nname = \"chat\"\nmodel = \"m\"\nstrategy = \"canary\"\nsteps = [\"5%:10m:200\"]\n";
        assert_eq!(problem(good), "");
        assert!(problem("[[deployment]]\nname = \"chat\"\n").contains("model"));
        assert!(problem(&good.replace("canary", "slow")).contains("slow"));
        assert!(problem(&good.replace("5%", "5")).contains("chat: steps"));
        assert!(problem(&format!("{good}{good}")).contains("\"chat\""));
        assert!(problem(&good.replace("model", "modell")).contains("modell"));
    }
}
