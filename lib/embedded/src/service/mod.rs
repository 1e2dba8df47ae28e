//! The gRPC face: each handler checks sizes, asks the owner, and signs the answer. It decides nothing.

mod cluster;
mod kv;
mod lease;
mod maintenance;
mod watch;

use std::net::SocketAddr;

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader,
    PbWatchServer,
};
use prost::Message;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::owner::{Handle, Identity};
use crate::store::{MAX_REQUEST_BYTES, Refusal};

/// What is read at all from the wire: far more than what is then refused as too large with etcd's words.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// What all services share.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) owner: Handle,
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// All services, and an answer with a hint for what isn't served.
    pub(crate) fn routes(self) -> Routes {
        let (_, health) = tonic_health::server::health_reporter();
        let routes =
            Routes::new(PbKvServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
                .add_service(PbWatchServer::new(self.clone()))
                .add_service(PbLeaseServer::new(self.clone()))
                .add_service(PbClusterServer::new(self.clone()))
                .add_service(PbMaintenanceServer::new(self))
                .add_service(health);
        let fallback =
            async |uri: http::Uri| not_served(uri.path()).into_http::<tonic::body::Body>();
        routes.into_axum_router().fallback(fallback).into()
    }

    fn answer<T: Signed>(&self, result: Result<T, Refusal>) -> Result<Response<T>, Status> {
        let mut response = result?;
        self.identity.sign(response.header());
        Ok(Response::new(response))
    }
}

/// A response with a header that says who answers.
trait Signed {
    fn header(&mut self) -> &mut Option<PbResponseHeader>;
}

macro_rules! signed {
    ($($response:ty),* $(,)?) => {$(
        impl crate::service::Signed for $response {
            fn header(&mut self) -> &mut Option<etcd_client::proto::PbResponseHeader> {
                &mut self.header
            }
        }
    )*};
}
pub(crate) use signed;

fn check_size(request: &impl Message) -> Result<(), Refusal> {
    if request.encoded_len() > MAX_REQUEST_BYTES { Err(Refusal::TooLarge) } else { Ok(()) }
}

/// For the calls of etcd's API that this store doesn't have.
fn not_served(call: &str) -> Status {
    Status::unimplemented(format!(
        "{call}: bulrush's embedded store serves KV, Watch, Lease, MemberList and Status for one machine; \
         for users, roles, snapshots or more members run a real etcd"
    ))
}
