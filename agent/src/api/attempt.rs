//! From a request to a response: it is admitted, and attempted on the revision that it was sent to; what a candidate fails,
//! the stable revision takes over.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use http_body_util::BodyExt;
use llmdeck_engine::constraint::Constraint;
use llmdeck_engine::generation::GenerationRequest;
use llmdeck_engine::scheduler::Priority;
use tokio::sync::SetOnce;

use super::answer::{Delivery, Envelope, Unanswered, Wording, respond};
use super::answer_format::AskedFormat;
use super::error::ApiError;
use super::parameters::Checked;
use super::proxy::{NotPassed, Passed, pass_on};
use crate::backend::{Backend, Upstream};
use crate::placement::Variant;
use crate::security::keys::Charge;
use crate::serving::{
    Admitted, Arm, Deployment, Generation, GenerationStep, Meter, Observation, Preference, Rescue, Trial,
};
use crate::time::unix_ms;

/// Which revision answers; in a request, which one is to.
pub(super) const REVISION_HEADER: HeaderName = HeaderName::from_static("x-llmdeck-revision");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// What a model is asked, before it is in that model's tokens.
pub(super) trait Prompt: Send + Sync + 'static {
    /// In the tokens of a revision's model, behind what the revision says first.
    fn tokens(&self, variant: &Variant) -> Result<Vec<u32>, ApiError>;
}

/// What our engine needs to answer.
pub(super) struct ForEngine<P, W> {
    pub(super) prompt: P,
    pub(super) checked: Checked,
    pub(super) wording: W,
}

impl<P, W> ForEngine<P, W> {
    fn asks_for_json(&self) -> bool {
        self.checked.format.as_ref().is_some_and(AskedFormat::is_json)
    }
}

/// What is to be answered.
pub(super) struct Asked<P, W> {
    pub(super) deployment: Arc<Deployment>,
    /// Chosen by the request, in the place of the revision's own.
    pub(super) adapter: Option<String>,
    pub(super) preference: Preference,
    /// What its key pays with.
    pub(super) charge: Option<Arc<Charge>>,
    pub(super) arrived: Instant,
    /// For another server.
    pub(super) passed: Passed,
    /// For our engine, or what it could not answer.
    pub(super) for_engine: Result<ForEngine<P, W>, ApiError>,
}

/// Runs the request.
pub(super) async fn answer<P: Prompt, W: Wording>(asked: Asked<P, W>) -> Result<Response, ApiError> {
    // What the engine that serves cannot answer takes nobody's place.
    if let Err(error) = &asked.for_engine
        && asked.deployment.stable().is_none_or(|live| live.upstream().is_none())
    {
        return Err(error.clone());
    }
    let admitted = asked.deployment.admit(asked.arrived, &asked.preference).await?;
    let id = format!("{}{:016x}", W::ID_PREFIX, rand::random::<u64>());
    let attempt = Arc::new(Attempt { asked, id, answered: SetOnce::new() });
    if let Some(copy) = attempt.asked.deployment.shadow_of(&admitted) {
        // It has its request's deadline, and there are few at once.
        tokio::spawn(Arc::clone(&attempt).shadow(copy));
    }
    let answered = attempt.run(admitted).await;
    // Nobody else sets it.
    let _ = attempt.answered.set(answered.is_ok());
    answered
}

/// A request that any revision of its deployment may be asked to answer.
struct Attempt<P, W> {
    asked: Asked<P, W>,
    id: String,
    /// Whether its user gets an answer, as soon as that is known.
    answered: SetOnce<bool>,
}

/// How an attempt on one revision ended without an answer.
enum Failed {
    /// The candidate's fault, or a rollback's.
    Rescue(Rescue),
    /// The candidate refused it, which may be the request's fault.
    Refused(Rescue),
    Error(ApiError),
}

impl<P: Prompt, W: Wording> Attempt<P, W> {
    /// Begins on the revision that it was admitted to. What a candidate fails before it says anything, the stable revision
    /// takes over: nobody is to suffer from a trial.
    async fn run(&self, mut admitted: Admitted) -> Result<Response, ApiError> {
        let mut refused_by = None;
        loop {
            let trial = admitted.on_trial().cloned();
            let outcome = match admitted.backend.clone() {
                Backend::Engine(engine) => match self.adapted(engine).await {
                    Ok(engine) => self.on_engine(&engine, admitted, &mut refused_by).await,
                    Err(error) => Err(Failed::Error(error)),
                },
                Backend::Upstream(_) if self.asked.adapter.is_some() => Err(Failed::Error(ApiError::field(
                    "model",
                    "names an adapter, and another server answers for this deployment; ask for that server's own",
                ))),
                Backend::Upstream(upstream) => self.on_server(&upstream, admitted, &mut refused_by).await,
            };
            let rescue = match outcome {
                Ok(response) => return Ok(response),
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Rescue(rescue)) => rescue,
                Err(Failed::Refused(rescue)) => {
                    refused_by = trial;
                    rescue
                }
            };
            admitted = self.asked.deployment.rescue(rescue).await?;
        }
    }

    /// What serves, with the adapter that the request chooses.
    async fn adapted(&self, engine: Variant) -> Result<Variant, ApiError> {
        let Some(adapter) = &self.asked.adapter else { return Ok(engine) };
        let adapted = self.asked.deployment.adapted(&engine, adapter).await;
        adapted.map_err(|error| ApiError::failed(&format!("adapter {adapter:?}: {error}")))
    }

    fn headers(&self, admitted: &Admitted) -> (String, HeaderMap) {
        let revision = format!("{}@{}", self.asked.deployment.name(), admitted.revision.number());
        let mut headers = HeaderMap::new();
        for (name, value) in [(REVISION_HEADER, &revision), (REQUEST_ID_HEADER, &self.id)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        (revision, headers)
    }

    fn meter(&self, admitted: Admitted, json_asked: bool) -> Meter {
        let Asked { deployment, charge, .. } = &self.asked;
        Meter::new(Arc::clone(deployment), admitted, charge.clone(), self.id.clone(), json_asked)
    }

    async fn on_server(
        &self,
        upstream: &Arc<Upstream>,
        admitted: Admitted,
        refused_by: &mut Option<Arc<Trial>>,
    ) -> Result<Response, Failed> {
        let (_, headers) = self.headers(&admitted);
        let (passed, name) = (&self.asked.passed, self.asked.deployment.name());
        match pass_on(upstream, self.meter(admitted, passed.asks_for_json()), passed, name, headers).await {
            Ok(response) => {
                not_the_requests_fault(refused_by);
                Ok(response)
            }
            Err(NotPassed::Rescue(rescue)) => Err(Failed::Rescue(rescue)),
            Err(NotPassed::Refused(rescue)) => Err(Failed::Refused(rescue)),
            Err(NotPassed::Error(error)) => Err(Failed::Error(error)),
        }
    }

    async fn on_engine(
        &self,
        engine: &Variant,
        admitted: Admitted,
        refused_by: &mut Option<Arc<Trial>>,
    ) -> Result<Response, Failed> {
        let request = match &self.asked.for_engine {
            Ok(ours) => self.request(ours, engine).await.map(|request| (ours, request)),
            Err(error) => Err(error.clone()),
        };
        let (ours, request) = match request {
            Ok(request) => request,
            Err(_) if admitted.on_trial().is_some() => return Err(Failed::Refused(admitted.rescue())),
            Err(error) => return Err(Failed::Error(error)),
        };
        not_the_requests_fault(refused_by);
        let (revision, headers) = self.headers(&admitted);
        let spec = admitted.revision.spec();
        let envelope = Envelope {
            id: self.id.clone(),
            created: unix_ms() / 1_000,
            model: self.asked.deployment.name().to_owned(),
            fingerprint: format!("{revision}-{}", spec.digest.get(..12).unwrap_or(&spec.digest)),
        };
        let mut generation =
            match Generation::start(engine, self.meter(admitted, ours.asks_for_json()), request) {
                Ok(generation) => generation,
                Err(not_started) => {
                    let error = ApiError::of_engine(&not_started.error, W::PROMPT_FIELD);
                    return Err(not_started.rescue.map_or(Failed::Error(error), Failed::Rescue));
                }
            };
        if generation.is_rescuable() && matches!(generation.peek().await, Some(GenerationStep::Failed(_))) {
            return Err(Failed::Rescue(generation.rescue()));
        }
        let delivery = if self.asked.passed.stream {
            Delivery::Streamed { include_usage: ours.checked.include_usage }
        } else {
            Delivery::Whole
        };
        match respond(generation, envelope, ours.wording.clone(), headers, delivery).await {
            Ok(response) => Ok(response),
            Err(Unanswered::Error(error)) => Err(Failed::Error(error)),
            Err(Unanswered::Cut(rescue)) => Err(Failed::Rescue(rescue)),
        }
    }

    /// A copy, whose answer is measured and scored and goes nowhere. What the candidate refuses and the stable revision answers
    /// is the candidate's failure.
    async fn shadow(self: Arc<Self>, admitted: Admitted) {
        let (trial, deadline) = (admitted.compared_in().cloned(), admitted.deadline);
        let refused = !self.copied(admitted).await;
        let Some(trial) = trial.filter(|_| refused) else { return };
        // A client that goes away leaves it unknown.
        let answered = tokio::time::timeout_at(deadline.into(), self.answered.wait()).await;
        if answered.is_ok_and(|answered| *answered) {
            trial.observe(Observation::refused(Arm::Candidate));
        }
    }

    /// False when the candidate refused it.
    async fn copied(&self, admitted: Admitted) -> bool {
        let mut nobody = None;
        match admitted.backend.clone() {
            Backend::Upstream(upstream) => match self.on_server(&upstream, admitted, &mut nobody).await {
                Ok(response) => {
                    let mut body = response.into_body();
                    while body.frame().await.is_some() {}
                }
                Err(Failed::Error(error)) if error.is_refusal() => return false,
                Err(_) => {}
            },
            Backend::Engine(engine) => {
                let Ok(ours) = &self.asked.for_engine else { return false };
                let Ok(engine) = self.adapted(engine).await else { return true };
                let Ok(request) = self.request(ours, &engine).await else { return false };
                let request = GenerationRequest { priority: Priority::Background, ..request };
                if let Ok(mut generation) =
                    Generation::start(&engine, self.meter(admitted, ours.asks_for_json()), request)
                {
                    while generation.next().await.is_some() {}
                }
            }
        }
        true
    }

    async fn request(&self, ours: &ForEngine<P, W>, engine: &Variant) -> Result<GenerationRequest, ApiError> {
        let checked = &ours.checked;
        let prompt = ours.prompt.tokens(engine)?;
        checked.require_tokens_of(engine.model().decoder.description().vocabulary)?;
        let constraint = match &checked.format {
            Some(asked) => Some(constraint(engine, asked).await?),
            None => None,
        };
        let default_max_tokens = self.asked.deployment.limits().default_max_tokens;
        Ok(GenerationRequest {
            prompt,
            max_tokens: checked.max_tokens.unwrap_or(default_max_tokens),
            sampling: checked.sampling.clone(),
            stops: checked.stops.clone(),
            priority: Priority::Interactive,
            fairness_key: self.asked.preference.fairness_key(),
            constraint,
            ignore_end: checked.ignore_end,
            adapter: engine.adapter().cloned(),
            cpu_time: Some(Arc::clone(engine.cpu_time())),
        })
    }
}

/// What a candidate refused and another revision takes was the candidate's failure.
fn not_the_requests_fault(refused_by: &mut Option<Arc<Trial>>) {
    if let Some(trial) = refused_by.take() {
        trial.observe(Observation::refused(Arm::Candidate));
    }
}

/// Large schemas take a while, and the first of a model longest: not on a thread that serves others.
async fn constraint(engine: &Variant, asked: &AskedFormat) -> Result<Constraint, ApiError> {
    let AskedFormat { field, format } = asked.clone();
    let model = Arc::clone(engine.model());
    let made = tokio::task::spawn_blocking(move || model.constraint(&format)).await;
    made.map_err(|_| ApiError::failed("the format met a bug of the agent; its log has the panic"))?
        .map_err(|error| ApiError::field(field, error))
}
