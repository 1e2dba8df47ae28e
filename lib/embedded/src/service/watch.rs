//! Watch streams: requests go to the owner, responses come as the client takes them.

use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::proto::{PbWatchRequest, PbWatchService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Service;
use crate::owner::{Handle, WatchItem};
use crate::store::{Refusal, StreamId};

/// Responses on their way to one client, each up to about 1 MiB.
const IN_FLIGHT: usize = 4;

static NEXT_STREAM: AtomicU64 = AtomicU64::new(0);

#[async_trait]
impl PbWatchService for Service {
    type WatchStream = ReceiverStream<WatchItem>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let stream = NEXT_STREAM.fetch_add(1, Ordering::Relaxed);
        // The receiver is ours, so there is room.
        let slot = sender.clone().reserve_owned().await.map_err(|_| Refusal::Stopped)?;
        self.owner.open(stream, slot).await?;
        let owner = self.owner.clone();
        tokio::spawn(async move {
            // Whatever ends it, the owner hears of it.
            let _ = take_requests(&owner, stream, request.into_inner(), &sender).await;
            let _ = owner.gone(stream).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Takes the client's requests until it is gone.
async fn take_requests(
    owner: &Handle,
    stream: StreamId,
    mut requests: Streaming<PbWatchRequest>,
    responses: &mpsc::Sender<WatchItem>,
) -> Result<(), Refusal> {
    loop {
        // A client that doesn't take its responses isn't heard further, so that they can't pile up.
        let Ok(room) = responses.reserve().await else { return Ok(()) };
        drop(room);
        let request = tokio::select! {
            request = requests.message() => request,
            () = responses.closed() => return Ok(()),
            () = owner.stopped() => return Ok(()),
        };
        match request {
            Ok(Some(PbWatchRequest { request_union: Some(request) })) => {
                owner.watch(stream, request).await?;
            }
            Ok(Some(PbWatchRequest { request_union: None })) => {}
            // The client asks nothing more, but may go on listening.
            Ok(None) => {
                tokio::select! {
                    () = responses.closed() => return Ok(()),
                    () = owner.stopped() => return Ok(()),
                }
            }
            Err(_) => return Ok(()),
        }
    }
}
