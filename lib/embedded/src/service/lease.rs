//! Leases: grant, revoke, keep alive, ask.

use std::pin::Pin;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Service, signed};

signed!(
    PbLeaseGrantResponse,
    PbLeaseRevokeResponse,
    PbLeaseKeepAliveResponse,
    PbLeaseTimeToLiveResponse,
    PbLeaseLeasesResponse,
);

#[async_trait]
impl PbLeaseService for Service {
    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<PbLeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let mut request = request.into_inner();
        while request.id == 0 {
            request.id = rand::random::<i64>() & i64::MAX;
        }
        self.answer(self.owner.write(move |store, now| store.lease_grant(&request, now)).await)
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let request = request.into_inner();
        self.answer(self.owner.write(move |store, _| store.lease_revoke(request)).await)
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let service = self.clone();
        let stopped = {
            let owner = self.owner.clone();
            async move { owner.stopped().await }
        };
        let answers = request.into_inner().then(move |request| {
            let service = service.clone();
            async move {
                let request = request?;
                let renewed = service
                    .owner
                    .touch(move |store, now| Ok(store.lease_keep_alive(request, now)))
                    .await;
                service.answer(renewed).map(Response::into_inner)
            }
        });
        Ok(Response::new(Box::pin(answers.take_until(Box::pin(stopped)))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        self.answer(
            self.owner.read(move |store, now| Ok(store.lease_time_to_live(&request, now))).await,
        )
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        self.answer(self.owner.read(move |store, _| Ok(store.lease_leases())).await)
    }
}
