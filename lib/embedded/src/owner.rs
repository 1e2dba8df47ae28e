//! The task that owns the store: everything that happens to it happens here, one after the other.
//!
//! ```text
//! gRPC handlers ──commands──> owner ──responses──> gRPC handlers
//!                               ├─────watch responses, as clients take them──> streams
//!                               └─────groups of writes──> disk
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use etcd_client::proto::{PbResponseHeader, PbWatchRequestUnion, PbWatchResponse};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep_until;
use tonic::Status;

use crate::committer::{Committer, Health, Lost, Release};
use crate::disk::Disk;
use crate::store::{Refusal, Store, StreamId, Watches};

/// Commands that may wait for the owner; with more, clients wait.
const COMMANDS: usize = 1024;
/// Commands taken at once, before anything else gets its turn.
const BATCH: usize = 256;

/// A response on its way to the client of a watch stream.
pub(crate) type WatchItem = Result<PbWatchResponse, Status>;
type Slot = OwnedPermit<WatchItem>;

type Read = Box<dyn FnOnce(&Store, Instant) + Send>;
type Touch = Box<dyn FnOnce(&mut Store, Instant) + Send>;
/// Gets the store, or why nothing can be written.
type Write = Box<dyn FnOnce(Result<&mut Store, Refusal>, Instant) -> Option<Release> + Send>;

enum Command {
    /// Sees what is published.
    Read(Read),
    /// Changes what is in memory only.
    Touch(Touch),
    /// Changes what has to be durable before it is acknowledged.
    Write(Write),
    /// Tries again to write, if the disk was in trouble.
    Retry(Release),
    /// A client opened a watch stream.
    Open(StreamId, Slot),
    Watch(StreamId, PbWatchRequestUnion),
    /// The stream's client can take one more response.
    Ready(StreamId, Slot),
    Gone(StreamId),
}

/// Who answers: the same over restarts when there is a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

impl Identity {
    /// Says in a header who answers.
    pub(crate) fn sign(self, header: &mut Option<PbResponseHeader>) {
        let header = header.get_or_insert_default();
        header.cluster_id = self.cluster_id;
        header.member_id = self.member_id;
        header.raft_term = crate::RAFT_TERM;
    }
}

/// The way to the owner.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Health>,
}

impl Handle {
    /// Answers from what is published.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store, Instant) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = move |store: &Store, now| {
            let _ = reply.send(read(store, now));
        };
        self.send(Command::Read(Box::new(command))).await?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Changes what is in memory only.
    pub(crate) async fn touch<T: Send + 'static>(
        &self,
        touch: impl FnOnce(&mut Store, Instant) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = move |store: &mut Store, now| {
            let _ = reply.send(touch(store, now));
        };
        self.send(Command::Touch(Box::new(command))).await?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Changes the store; answers when the change, and all before it, is durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Store, Instant) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = move |store: Result<&mut Store, Refusal>, now: Instant| -> Option<Release> {
            match store {
                Ok(store) => {
                    let result = write(store, now);
                    Some(Box::new(move |durable| {
                        let _ = reply.send(durable.and(result));
                    }))
                }
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                    None
                }
            }
        };
        self.send(Command::Write(Box::new(command))).await?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// How the disk is.
    pub(crate) fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Tries again to write, if the disk was in trouble, and tells how that went.
    pub(crate) async fn retry(&self) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let release = move |outcome| {
            let _ = reply.send(outcome);
        };
        self.send(Command::Retry(Box::new(release))).await?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    pub(crate) async fn watch(
        &self,
        stream: StreamId,
        request: PbWatchRequestUnion,
    ) -> Result<(), Refusal> {
        self.send(Command::Watch(stream, request)).await
    }

    pub(crate) async fn open(&self, stream: StreamId, slot: Slot) -> Result<(), Refusal> {
        self.send(Command::Open(stream, slot)).await
    }

    pub(crate) async fn gone(&self, stream: StreamId) -> Result<(), Refusal> {
        self.send(Command::Gone(stream)).await
    }

    /// Returns when the owner has stopped.
    pub(crate) async fn stopped(&self) {
        self.commands.closed().await;
    }

    async fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_| Refusal::Stopped)
    }
}

/// The store and all that depends on it.
pub(crate) struct Owner {
    store: Store,
    committer: Committer,
    watches: Watches,
    /// Room for the next response of each stream; none while its client is busy with those before.
    slots: HashMap<StreamId, Option<Slot>>,
    identity: Identity,
    history_bytes: usize,
    progress_interval: Duration,
    /// For tasks that wait until a client takes more.
    commands: mpsc::WeakSender<Command>,
}

impl Owner {
    /// An owner, how to reach it, and its inbox for [`Owner::run`].
    pub(crate) fn new(
        store: Store,
        disk: Option<Disk>,
        identity: Identity,
        config: &crate::Config,
    ) -> (Self, Handle, Inbox) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let committer = Committer::new(disk, Instant::now());
        let health = committer.health();
        let owner = Self {
            store,
            committer,
            watches: Watches::default(),
            slots: HashMap::new(),
            identity,
            history_bytes: config.history_bytes,
            progress_interval: config.progress_interval,
            commands: commands.downgrade(),
        };
        (owner, Handle { commands, health }, Inbox(inbox))
    }

    /// Runs until told to stop; what was taken until then is still answered.
    pub(crate) async fn run(
        mut self,
        mut inbox: Inbox,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Lost> {
        let mut commands = Vec::with_capacity(BATCH);
        let mut notify_at = Instant::now() + self.progress_interval;
        loop {
            let wake_at = self.wake_at(notify_at);
            let ended = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                ended = self.committer.ended() => Some(ended?),
                taken = inbox.0.recv_many(&mut commands, BATCH) => {
                    if taken == 0 {
                        // Nobody is left who could ask.
                        break;
                    }
                    None
                }
                () = sleep_until(wake_at.into()) => None,
            };
            let now = Instant::now();
            let mut news =
                ended.is_some_and(|ended| self.committer.conclude(ended, &mut self.store, now));
            if self.committer.trouble().is_none() {
                self.store.expire(now);
            }
            for command in commands.drain(..) {
                self.handle(command, now);
            }
            news |= self.committer.begin(&mut self.store, now);
            if now >= notify_at {
                self.watches.notify();
                notify_at = now + self.progress_interval;
                news = true;
            }
            if news {
                self.store.bound_history(self.history_bytes);
                self.serve_all();
            }
        }
        while self.committer.is_waited_for() && self.committer.trouble().is_none() {
            self.committer.begin(&mut self.store, Instant::now());
            if self.committer.is_busy() {
                let ended = self.committer.ended().await?;
                self.committer.conclude(ended, &mut self.store, Instant::now());
            }
        }
        Ok(())
    }

    /// When something is to be done without being asked.
    fn wake_at(&self, notify_at: Instant) -> Instant {
        let at = match self.committer.trouble() {
            // Leases can't end while nothing can be written.
            Some(_) => self.committer.retry_at(),
            None => self.store.next_expiry(),
        };
        at.map_or(notify_at, |at| at.min(notify_at))
    }

    fn handle(&mut self, command: Command, now: Instant) {
        match command {
            Command::Read(read) => read(&self.store, now),
            Command::Touch(touch) => touch(&mut self.store, now),
            Command::Write(write) => {
                let store = self.committer.trouble().map_or(Ok(&mut self.store), Err);
                if let Some(release) = write(store, now) {
                    self.committer.wait(release);
                }
            }
            Command::Retry(release) => self.committer.retry(now, release),
            Command::Open(stream, slot) => {
                self.slots.insert(stream, Some(slot));
                self.watches.open(stream);
            }
            Command::Watch(stream, request) => {
                self.watches.request(stream, request, &self.store);
                self.serve(stream);
            }
            Command::Ready(stream, slot) => {
                // It may be gone since it asked.
                if let Some(place) = self.slots.get_mut(&stream) {
                    *place = Some(slot);
                    self.serve(stream);
                }
            }
            Command::Gone(stream) => {
                self.slots.remove(&stream);
                self.watches.close(stream);
            }
        }
    }

    fn serve_all(&mut self) {
        let ready: Vec<StreamId> =
            self.slots.iter().filter(|(_, slot)| slot.is_some()).map(|(id, _)| *id).collect();
        for stream in ready {
            self.serve(stream);
        }
    }

    /// Gives a stream what it is owed and its client can take.
    fn serve(&mut self, stream: StreamId) {
        let Some(place) = self.slots.get_mut(&stream) else { return };
        while let Some(slot) = place.take() {
            let Some(mut response) = self.watches.next(stream, &self.store) else {
                *place = Some(slot);
                return;
            };
            self.identity.sign(&mut response.header);
            match slot.send(Ok(response)).try_reserve_owned() {
                Ok(slot) => *place = Some(slot),
                Err(TrySendError::Full(sender)) => {
                    let commands = self.commands.clone();
                    tokio::spawn(async move {
                        if let Ok(slot) = sender.reserve_owned().await
                            && let Some(commands) = commands.upgrade()
                        {
                            let _ = commands.send(Command::Ready(stream, slot)).await;
                        }
                    });
                }
                // Gone; its reader says so too.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }
}

/// Where the owner's commands arrive.
pub(crate) struct Inbox(mpsc::Receiver<Command>);
