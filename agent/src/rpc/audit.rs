use std::sync::Arc;

use llmdeck_proto::v1::audit_server;
use llmdeck_proto::v1::{ListRecordsRequest, ListRecordsResponse};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::identity::Operator;

const DEFAULT_RECORDS: u32 = 100;
const MOST_RECORDS: u32 = 1_000;

pub(super) struct Audit(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl audit_server::Audit for Audit {
    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        Operator::of_request(&request)?;
        let limit = match request.into_inner().limit {
            0 => DEFAULT_RECORDS,
            limit => limit.min(MOST_RECORDS),
        };
        let audit = Arc::clone(&self.0.audit);
        let records = tokio::task::spawn_blocking(move || audit.newest(limit as usize)).await;
        let records =
            records.map_err(|_| Status::internal("reading the audit failed; the agent's log has more"))?;
        let records = records.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ListRecordsResponse { records }))
    }
}
