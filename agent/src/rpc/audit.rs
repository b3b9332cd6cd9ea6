use std::sync::Arc;

use llmdeck_audit::Record;
use llmdeck_proto::v1::audit_server;
use llmdeck_proto::v1::{AuditRecord, ListRecordsRequest, ListRecordsResponse};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::access::Subject;

const DEFAULT_RECORDS: u32 = 100;
const MOST_RECORDS: u32 = 1_000;

pub(super) struct Audit(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl audit_server::Audit for Audit {
    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        self.0.authorize(&request, "Audit/ListRecords", Subject::Node).await?;
        let ListRecordsRequest { limit, after_sequence } = request.into_inner();
        let limit = match limit {
            0 => DEFAULT_RECORDS,
            limit => limit.min(MOST_RECORDS),
        } as usize;
        let audit = Arc::clone(&self.0.audit);
        let reading = move || match after_sequence {
            Some(sequence) => audit.after(sequence, limit),
            None => audit.newest(limit),
        };
        let records = tokio::task::spawn_blocking(reading).await;
        let records =
            records.map_err(|_| Status::internal("reading the audit failed; the agent's log has more"))?;
        let records = records.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ListRecordsResponse { records: records.into_iter().map(message).collect() }))
    }
}

fn message(record: Record) -> AuditRecord {
    AuditRecord {
        sequence: record.sequence,
        time_unix_ms: record.time_unix_ms,
        operator: record.operator,
        uid: record.uid,
        action: record.action,
        subject: record.subject,
        reason: record.reason,
        outcome: record.outcome,
        previous: record.previous,
    }
}
