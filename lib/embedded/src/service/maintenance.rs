//! Status, and what etcd has for its upkeep.

use etcd_client::proto::{
    PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse,
    PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::{Service, not_served, signed};
use crate::store::{Refusal, count, header};
use crate::{ETCD_VERSION, RAFT_TERM};

// `AlarmAction` and `AlarmType` of etcd's rpc.proto.
const GET: i32 = 0;
const DEACTIVATE: i32 = 2;
const NO_SPACE: i32 = 1;
/// The version of etcd's storage that goes with [`ETCD_VERSION`].
const STORAGE_VERSION: &str = "3.6.0";

impl Service {
    fn alarms(&self) -> Vec<PbAlarmMember> {
        let full = self.owner.health().trouble == Some(Refusal::NoSpace);
        full.then_some(PbAlarmMember { member_id: self.identity.member_id, alarm: NO_SPACE })
            .into_iter()
            .collect()
    }

    fn describe(&self, trouble: Refusal) -> String {
        match trouble {
            Refusal::NoSpace => format!("memberID:{} alarm:NOSPACE ", self.identity.member_id),
            other => other.to_string(),
        }
    }
}

signed!(PbAlarmResponse, PbStatusResponse, PbHashKvResponse);

#[async_trait]
impl PbMaintenanceService for Service {
    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn alarm(
        &self,
        request: Request<PbAlarmRequest>,
    ) -> Result<Response<PbAlarmResponse>, Status> {
        let alarms = self.alarms();
        match request.into_inner().action {
            GET => {}
            // It goes by itself when there is space again; whoever is sure of that needn't wait.
            DEACTIVATE => self.owner.retry().await?,
            _ => return Err(not_served("Alarm activation")),
        }
        let revision = self.owner.read(|store, _| Ok(store.visible())).await?;
        self.answer(Ok(PbAlarmResponse { header: Some(header(revision)), alarms }))
    }

    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let (revision, bytes) =
            self.owner.read(|store, _| Ok((store.visible(), count(store.bytes())))).await?;
        let health = self.owner.health();
        let bytes = health.disk_bytes.map_or(bytes, u64::cast_signed);
        // Without Raft, the revision is the best count of what was agreed on.
        let index = revision.unsigned_abs();
        self.answer(Ok(PbStatusResponse {
            header: Some(header(revision)),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes,
            db_size_in_use: bytes,
            leader: self.identity.member_id,
            raft_index: index,
            raft_applied_index: index,
            raft_term: RAFT_TERM,
            errors: health.trouble.iter().map(|trouble| self.describe(*trouble)).collect(),
            storage_version: STORAGE_VERSION.to_owned(),
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
        request: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        let request = request.into_inner();
        self.answer(self.owner.read(move |store, _| store.hash(request)).await)
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
