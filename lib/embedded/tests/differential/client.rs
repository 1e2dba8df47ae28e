//! A client without opinions: protobuf messages in, protobuf messages or status out.

use etcd_client::proto::{
    PbCompactionResponse, PbDeleteResponse, PbLeaseGrantResponse, PbLeaseKeepAliveRequest,
    PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveResponse, PbPutResponse, PbRangeResponse, PbResponseHeader, PbTxnResponse,
    PbWatchRequest, PbWatchResponse,
};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::operations::Operation;

/// What a server said, without who it is.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Range(PbRangeResponse),
    Put(PbPutResponse),
    Delete(PbDeleteResponse),
    Txn(PbTxnResponse),
    Compact(PbCompactionResponse),
    Grant(PbLeaseGrantResponse),
    Revoke(PbLeaseRevokeResponse),
    KeepAlive(PbLeaseKeepAliveResponse),
    TimeToLive(PbLeaseTimeToLiveResponse),
    Leases(PbLeaseLeasesResponse),
    Refused(Code, String),
}

impl Answer {
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(..))
    }

    /// The revision in the header; none for a refusal.
    pub(crate) fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Range(response) => &response.header,
            Self::Put(response) => &response.header,
            Self::Delete(response) => &response.header,
            Self::Txn(response) => &response.header,
            Self::Compact(response) => &response.header,
            Self::Grant(response) => &response.header,
            Self::Revoke(response) => &response.header,
            Self::KeepAlive(response) => &response.header,
            Self::TimeToLive(response) => &response.header,
            Self::Leases(response) => &response.header,
            Self::Refused(..) => return None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

#[derive(Clone)]
pub(crate) struct Client(Channel);

impl Client {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        let channel = Channel::from_shared(endpoint.to_owned()).expect("a URL").connect().await;
        Self(channel.expect("the server takes connections"))
    }

    pub(crate) async fn run(&self, operation: &Operation) -> Answer {
        let answer = match operation {
            Operation::Range(r) => self.call("KV/Range", r, Answer::Range, |r| &mut r.header).await,
            Operation::Put(r) => self.call("KV/Put", r, Answer::Put, |r| &mut r.header).await,
            Operation::Delete(r) => {
                self.call("KV/DeleteRange", r, Answer::Delete, |r| &mut r.header).await
            }
            Operation::Txn(r) => self.call("KV/Txn", r, Answer::Txn, |r| &mut r.header).await,
            Operation::Compact(r) => {
                self.call("KV/Compact", r, Answer::Compact, |r| &mut r.header).await
            }
            Operation::Grant(r) => {
                self.call("Lease/LeaseGrant", r, Answer::Grant, |r| &mut r.header).await
            }
            Operation::Revoke(r) => {
                self.call("Lease/LeaseRevoke", r, Answer::Revoke, |r| &mut r.header).await
            }
            Operation::KeepAlive(r) => self.keep_alive(*r).await,
            Operation::TimeToLive(r) => {
                let wrap = |mut response: PbLeaseTimeToLiveResponse| {
                    response.ttl = response.ttl.min(0);
                    response.keys.sort();
                    Answer::TimeToLive(response)
                };
                self.call("Lease/LeaseTimeToLive", r, wrap, |r| &mut r.header).await
            }
            Operation::Leases => {
                let request = &PbLeaseLeasesRequest {};
                self.call("Lease/LeaseLeases", request, Answer::Leases, |r| &mut r.header).await
            }
        };
        answer.unwrap_or_else(|status| Answer::Refused(status.code(), status.message().to_owned()))
    }

    async fn call<Q, R>(
        &self,
        method: &str,
        request: &Q,
        wrap: impl FnOnce(R) -> Answer,
        header: impl FnOnce(&mut R) -> &mut Option<PbResponseHeader>,
    ) -> Result<Answer, Status>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc().await;
        let codec = ProstCodec::<Q, R>::default();
        let mut response =
            grpc.unary(Request::new(request.clone()), path(method), codec).await?.into_inner();
        anonymous(header(&mut response));
        Ok(wrap(response))
    }

    async fn keep_alive(&self, request: PbLeaseKeepAliveRequest) -> Result<Answer, Status> {
        let mut grpc = self.grpc().await;
        let codec = ProstCodec::<PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse>::default();
        let requests = Request::new(tokio_stream::once(request));
        let responses = grpc.streaming(requests, path("Lease/LeaseKeepAlive"), codec).await?;
        let mut response =
            responses.into_inner().message().await?.expect("an answer to the request");
        anonymous(&mut response.header);
        Ok(Answer::KeepAlive(response))
    }

    /// Opens a watch stream.
    pub(crate) async fn watch(
        &self,
        requests: ReceiverStream<PbWatchRequest>,
    ) -> Streaming<PbWatchResponse> {
        let mut grpc = self.grpc().await;
        let codec = ProstCodec::<PbWatchRequest, PbWatchResponse>::default();
        let responses = grpc.streaming(Request::new(requests), path("Watch/Watch"), codec).await;
        responses.expect("the server watches").into_inner()
    }

    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.expect("the server is there");
        grpc
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/etcdserverpb.{method}").parse().expect("a path")
}

/// Removes who answered.
pub(crate) fn anonymous(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        *header = PbResponseHeader { revision: header.revision, ..PbResponseHeader::default() };
    }
}
