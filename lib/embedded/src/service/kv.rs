//! Keys and values: range, put, delete, transact, compact.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse,
    PbTxnRequest, PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::{Service, check_size, not_served, signed};
use crate::store::is_read_only;

signed!(PbRangeResponse, PbPutResponse, PbDeleteResponse, PbTxnResponse, PbCompactionResponse);

#[async_trait]
impl PbKvService for Service {
    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
        let request = request.into_inner();
        self.answer(self.owner.read(move |store, _| store.range(&request)).await)
    }

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(not_served("RangeStream"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        self.answer(self.owner.write(move |store, _| store.put(&request)).await)
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        self.answer(self.owner.write(move |store, _| store.delete_range(&request)).await)
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.into_inner();
        if is_read_only(&request) {
            return self.answer(self.owner.read(move |store, _| store.read_txn(&request)).await);
        }
        check_size(&request)?;
        self.answer(self.owner.write(move |store, _| store.txn(&request)).await)
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        let request = request.into_inner();
        self.answer(self.owner.touch(move |store, _| store.compact(request)).await)
    }
}
