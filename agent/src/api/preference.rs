use axum::http::HeaderMap;

use super::attempt::REVISION_HEADER;
use super::caller::Caller;
use super::error::ApiError;
use crate::serving::{Preference, RevisionWish, Stickiness};

/// Where a request would like to go: the way of its user or its key, or what its header says.
pub(super) fn preference(
    headers: &HeaderMap,
    caller: &Caller,
    user: Option<String>,
    stickiness: Stickiness,
) -> Result<Preference, ApiError> {
    let revision = match headers.get(REVISION_HEADER).map(|value| value.to_str().unwrap_or_default()) {
        None => None,
        Some("stable") => Some(RevisionWish::Stable),
        Some("candidate") => Some(RevisionWish::Candidate),
        Some(other) => {
            // `7`, or `chat@7` as answers have it.
            let number = other.rsplit('@').next().and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| {
                let problem = format!("must be stable, candidate or a revision's number, not {other:?}");
                ApiError::field(REVISION_HEADER.as_str(), problem)
            })?;
            Some(RevisionWish::Number(number))
        }
    };
    // Users of different keys are different users, whatever they are called.
    let user = user.map(|user| format!("{}/{user}", caller.key().unwrap_or_default()));
    let key = caller.key().map(str::to_owned);
    let sticky = match stickiness {
        Stickiness::User => user.clone(),
        Stickiness::Key => key.clone().or_else(|| user.clone()),
    };
    Ok(Preference { sticky, fair: user.or(key), revision })
}
