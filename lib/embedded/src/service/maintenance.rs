//! Status, and what etcd has for its upkeep.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbResponseHeader,
    PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::{Service, not_served, signed};
use crate::store::count;
use crate::{ETCD_VERSION, RAFT_TERM};

signed!(PbAlarmResponse, PbStatusResponse);

#[async_trait]
impl PbMaintenanceService for Service {
    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        let revision = self.owner.read(|store, _| Ok(store.visible())).await?;
        let header = Some(PbResponseHeader { revision, ..PbResponseHeader::default() });
        self.answer(Ok(PbAlarmResponse { header, alarms: Vec::new() }))
    }

    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let (revision, bytes) =
            self.owner.read(|store, _| Ok((store.visible(), count(store.bytes())))).await?;
        // Without Raft, the revision is the best count of what was agreed on.
        let index = revision.unsigned_abs();
        self.answer(Ok(PbStatusResponse {
            header: Some(PbResponseHeader { revision, ..PbResponseHeader::default() }),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes,
            db_size_in_use: bytes,
            leader: self.identity.member_id,
            raft_index: index,
            raft_applied_index: index,
            raft_term: RAFT_TERM,
            ..PbStatusResponse::default()
        }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Err(not_served("Defragment"))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(not_served("Hash"))
    }

    async fn hash_kv(
        &self,
        _: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        Err(not_served("HashKV"))
    }

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_served("Snapshot"))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(not_served("MoveLeader"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(not_served("Downgrade"))
    }
}
