//! Out of service: no revision serves until a deploy or a rollback brings one back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::{ChangePlan, ChangeResponse, StopRequest};

use super::controller::{Controller, blocking, checked};
use super::refusal::Refused;
use crate::security::identity::Operator;
use crate::serving::{Deployment, LiveRevision};
use crate::time::unix_ms;

impl Controller {
    /// Stops a deployment. When this returns no new request is taken; what runs finishes, and then the memory of its revisions and
    /// standbys is given back.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn stop(
        self: &Arc<Self>,
        operator: Operator,
        request: StopRequest,
    ) -> Result<ChangeResponse, Refused> {
        let context = checked(request.context.unwrap_or_default())?;
        if let Some(answer) = self.answered(&context)? {
            return Ok(answer);
        }
        let (deployment, settings) = self.find(&request.deployment)?;
        self.check_expected(&deployment, &context)?;
        let name = deployment.name().to_owned();
        let nothing =
            || Refused::NothingToStop { deployment: name.clone(), why: deployment.why_unavailable() };
        let stable = deployment.stable().ok_or_else(nothing)?;
        let answer = ChangeResponse { plan: Some(plan(&deployment, &stable)), rollout_id: String::new() };
        if context.dry_run {
            return Ok(answer);
        }
        let claim = self.claim(&deployment, &operator, "stop", &context, stable.number()).await?;
        let (store, stopped) = (Arc::clone(&self.store), name.clone());
        blocking(move || store.stop(&stopped)).await??;
        deployment.stop();
        let why = if context.reason.is_empty() { String::new() } else { format!(": {}", context.reason) };
        let subject = format!("{name}@{}", stable.number());
        self.events.push(
            Severity::Warning,
            &subject,
            format!("{operator} stops it{why}"),
            &operator.to_string(),
        );
        drop(claim);
        let (controller, reason) = (Arc::clone(self), context.reason.clone());
        self.stops.spawn(async move {
            controller.let_go(&deployment, settings.drain, operator, &subject, &reason).await;
        });
        if !context.idempotency_key.is_empty() {
            self.store.keep_answer(&context.idempotency_key, &answer, unix_ms())?;
        }
        Ok(answer)
    }

    /// Waits until every stop has recorded how it ended. A last step, when no request comes any more.
    pub async fn stops_ended(&self) {
        self.stops.close();
        self.stops.wait().await;
    }

    /// Gives back what a stopped deployment holds, once its last answers are through; those that take longer than `drain` keep it as
    /// long as they run.
    async fn let_go(
        &self,
        deployment: &Deployment,
        drain: Duration,
        operator: Operator,
        subject: &str,
        reason: &str,
    ) {
        let until = Instant::now() + drain;
        let mut still_running = 0;
        for live in deployment.all_loaded() {
            live.idle_until(until).await;
            // A rollback may have brought it back meanwhile.
            let serves = deployment.stable().is_some_and(|stable| stable.number() == live.number());
            still_running += if serves { 0 } else { live.in_flight() };
            deployment.retire(live.number());
        }
        let text = format!("stopped; {still_running} still running");
        self.events.push(Severity::Information, subject, text.clone(), &operator.to_string());
        if let Err(error) = self.record(&operator, "outcome", subject, reason, &text).await {
            tracing::error!(%error, "the outcome of a stop could not be recorded");
        }
    }
}

fn plan(deployment: &Deployment, stable: &LiveRevision) -> ChangePlan {
    let (name, running) = (deployment.name(), deployment.in_flight());
    let others = deployment.all_loaded().len().saturating_sub(1);
    let mut effects = vec![
        format!("{name} takes no new requests: they are refused with 503"),
        format!("{running} running finish; then its memory is given back"),
    ];
    if others > 0 {
        effects.push(format!("{others} more loaded of it is given up as standby"));
    }
    effects.push("it stays stopped over a restart of the agent".into());
    ChangePlan {
        deployment: name.to_owned(),
        from_revision: stable.number(),
        from_model: stable.spec().title(),
        in_flight: running,
        effects,
        undo: format!("llmdeck rollback {name}, which loads {name}@{} again", stable.number()),
        ..ChangePlan::default()
    }
}
