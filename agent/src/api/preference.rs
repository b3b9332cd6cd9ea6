use axum::http::HeaderMap;

use super::attempt::REVISION_HEADER;
use super::error::ApiError;
use crate::serving::{Preference, RevisionWish};

/// Where a request would like to go: its user's way, or what its header says.
pub(super) fn preference(headers: &HeaderMap, user: Option<String>) -> Result<Preference, ApiError> {
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
    Ok(Preference { user, revision })
}
